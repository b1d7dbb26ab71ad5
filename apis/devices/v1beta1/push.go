package v1beta1

import "k8s.io/apimachinery/pkg/runtime"

// PushMethod is where a mapper sends a property's values itself, past edge and cloud. The mapper must be able to reach
// the address.
type PushMethod struct {
	// A POST for each value.
	// +optional
	HTTP *PushMethodHTTP `json:"http,omitempty"`
	// A message for each value.
	// +optional
	MQTT *PushMethodMQTT `json:"mqtt,omitempty"`
	// A metric at an OpenTelemetry collector.
	// +optional
	OTEL *PushMethodOTEL `json:"otel,omitempty"`
	// A row in a database. Where user and password are, the mapper's documentation says: never here.
	// +optional
	DBMethod *DBMethod `json:"dbMethod,omitempty"`
	// How the mapper tells odd values from others: an object of the mapper's own.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	AnomalyDetection *runtime.RawExtension `json:"anomalyDetection,omitempty"`
}

// PushMethodHTTP is an address to POST to.
type PushMethodHTTP struct {
	// Scheme and host, such as "http://192.0.2.8".
	// +optional
	HostName string `json:"hostName,omitempty"`
	// The port of the host, 1 to 65535. 0 or absent is that of the scheme.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	Port int64 `json:"port,omitempty"`
	// The path, with its first slash.
	// +optional
	RequestPath string `json:"requestPath,omitempty"`
	// Milliseconds until a try is given up. 0 or absent leaves it to the mapper.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Timeout int64 `json:"timeout,omitempty"`
}

// PushMethodMQTT is a topic to publish to.
type PushMethodMQTT struct {
	// The broker, such as "tcp://127.0.0.1:1883".
	// +optional
	Address string `json:"address,omitempty"`
	// The topic, without wildcards.
	// +optional
	Topic string `json:"topic,omitempty"`
	// Quality of service: 0 at most once, 1 at least once, 2 exactly once.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2
	QoS int32 `json:"qos,omitempty"`
	// Whether the broker keeps the last message for those who come later.
	// +optional
	Retained bool `json:"retained,omitempty"`
}

// PushMethodOTEL is an OpenTelemetry collector.
type PushMethodOTEL struct {
	// Where it takes metrics over HTTP, such as "http://192.0.2.9:4318/v1/metrics".
	// +optional
	EndpointURL string `json:"endpointURL,omitempty"`
}

// DBMethod is a database.
type DBMethod struct {
	// An InfluxDB 2.
	// +optional
	Influxdb2 *DBMethodInfluxdb2 `json:"influxdb2,omitempty"`
	// A Redis.
	// +optional
	Redis *DBMethodRedis `json:"redis,omitempty"`
	// A TDengine.
	// +optional
	TDEngine *DBMethodTDEngine `json:"TDEngine,omitempty"`
	// A MySQL.
	// +optional
	MySQL *DBMethodMySQL `json:"mysql,omitempty"`
}

// DBMethodInfluxdb2 is an InfluxDB 2.
type DBMethodInfluxdb2 struct {
	// +optional
	ClientConfig *Influxdb2ClientConfig `json:"influxdb2ClientConfig,omitempty"`
	// +optional
	DataConfig *Influxdb2DataConfig `json:"influxdb2DataConfig,omitempty"`
}

// Influxdb2ClientConfig is where the database is.
type Influxdb2ClientConfig struct {
	// The address of its HTTP API, such as "http://192.0.2.9:8086".
	// +optional
	URL string `json:"url,omitempty"`
	// The organization.
	// +optional
	Org string `json:"org,omitempty"`
	// The bucket that takes the points.
	// +optional
	Bucket string `json:"bucket,omitempty"`
}

// Influxdb2DataConfig is how a value becomes a point.
type Influxdb2DataConfig struct {
	// The measurement of the points.
	// +optional
	Measurement string `json:"measurement,omitempty"`
	// The field that holds the value.
	// +optional
	FieldKey string `json:"fieldKey,omitempty"`
	// Tags of the points.
	// +optional
	Tag map[string]string `json:"tag,omitempty"`
}

// DBMethodRedis is a Redis.
type DBMethodRedis struct {
	// +optional
	ClientConfig *RedisClientConfig `json:"redisClientConfig,omitempty"`
}

// RedisClientConfig is where the database is, and how many connections are kept.
type RedisClientConfig struct {
	// Host and port.
	// +optional
	Addr string `json:"addr,omitempty"`
	// The number of the database.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DB int32 `json:"db,omitempty"`
	// Connections at most. 0 or absent leaves it to the mapper.
	// +optional
	// +kubebuilder:validation:Minimum=0
	PoolSize int32 `json:"poolsize,omitempty"`
	// Connections that stay open though nothing uses them.
	// +optional
	// +kubebuilder:validation:Minimum=0
	MinIdleConns int32 `json:"minIdleConns,omitempty"`
}

// DBMethodTDEngine is a TDengine.
type DBMethodTDEngine struct {
	// +optional
	ClientConfig *TDEngineClientConfig `json:"TDEngineClientConfig,omitempty"`
}

// TDEngineClientConfig is where the database is.
type TDEngineClientConfig struct {
	// Host and port.
	// +optional
	Addr string `json:"addr,omitempty"`
	// The name of the database.
	// +optional
	DBName string `json:"dbName,omitempty"`
}

// DBMethodMySQL is a MySQL.
type DBMethodMySQL struct {
	// +optional
	ClientConfig *MySQLClientConfig `json:"mysqlClientConfig,omitempty"`
}

// MySQLClientConfig is where the database is.
type MySQLClientConfig struct {
	// Host and port.
	// +optional
	Addr string `json:"addr,omitempty"`
	// The name of the database.
	// +optional
	Database string `json:"database,omitempty"`
	// Who connects. The password is where the mapper's documentation says.
	// +optional
	UserName string `json:"userName,omitempty"`
}
