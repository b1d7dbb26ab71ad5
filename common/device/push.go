package device

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// Reasons of a PushSupported condition.
const (
	// ReasonNotSupportedYet: with another's mapper it may work.
	ReasonNotSupportedYet = "NotSupportedYet"
	// ReasonInvalidPush: with no mapper it can.
	ReasonInvalidPush = "InvalidPush"
)

// JudgePushes says, for a condition, which values cannot be pushed as the Device says, or not by Tether's own mappers yet; the reason is
// empty where all can. It is no finding against the Device, which works.
func JudgePushes(d *v1beta1.Device) (reason, message string) {
	var invalid, other sayings
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		if p.PushMethod == nil {
			continue
		}
		if err := checkPush(p.PushMethod); err != nil {
			invalid.add(quote(p.Name) + ": " + err.Error())
		}
		if ways := unsupported(p.PushMethod); len(ways) > 0 {
			other.add(quote(p.Name) + " (" + strings.Join(ways, ", ") + ")")
		}
	}
	if other.n > 0 {
		reason, message = ReasonNotSupportedYet, "expected pushMethod http or mqtt, found others, which Tether's mappers do not support yet: of property "+other.text(", ")
	}
	if invalid.n > 0 {
		if message != "" {
			message = "; " + message
		}
		reason, message = ReasonInvalidPush, "property "+invalid.text("; property ")+message
	}
	return reason, message
}

// sayings are the first of what is to be said.
type sayings struct {
	said []string
	n    int
}

func (s *sayings) add(text string) {
	if s.n++; s.n <= maxSaid {
		s.said = append(s.said, cut(text))
	}
}

func (s *sayings) text(between string) string {
	text := strings.Join(s.said, between)
	if s.n > maxSaid {
		text += fmt.Sprintf(", and %d more", s.n-maxSaid)
	}
	return text
}

// checkPush says what is wrong with a way to push that Tether's own mappers know.
func checkPush(p *v1beta1.PushMethod) error {
	var faults []error
	if h := p.HTTP; h != nil {
		_, err := PushURL(h.HostName, h.Port, h.RequestPath)
		faults = append(faults, err)
	}
	if m := p.MQTT; m != nil {
		faults = append(faults, CheckMQTTPush(m.Address, m.Topic, m.QoS))
	}
	return errors.Join(faults...)
}

// PushURL is where pushMethod http posts values: the host name, which has the scheme, and behind it a port, unless it is 0, and the
// path.
func PushURL(hostName string, port int64, path string) (string, error) {
	address := hostName
	if port != 0 {
		address += ":" + strconv.FormatInt(port, 10)
	}
	address += path
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("http: expected hostName with http:// or https://, port and requestPath, found %s", quote(address))
	}
	return address, nil
}

// mqttSchemes are those of brokers' addresses: MQTT over TCP, TLS and WebSocket.
var mqttSchemes = []string{"tcp", "mqtt", "ssl", "tls", "tcps", "mqtts", "mqtt+ssl", "ws", "wss"}

// CheckMQTTPush says what is wrong with a pushMethod mqtt. Brokers end the connection of a client that publishes to a topic with wildcards,
// and it is one for all that is pushed there.
func CheckMQTTPush(address, topic string, qos int32) error {
	if u, err := url.Parse(address); err != nil || u.Host == "" || !slices.Contains(mqttSchemes, u.Scheme) {
		return fmt.Errorf("mqtt: expected an address such as tcp://192.0.2.1:1883, found %s", quote(address))
	}
	if topic == "" || len(topic) > 65535 || strings.ContainsAny(topic, "+#\x00") || !utf8.ValidString(topic) || qos < 0 || qos > 2 {
		return fmt.Errorf("mqtt: expected a topic without the wildcards + and # and a qos of 0 to 2, found %s and %d", quote(topic), qos)
	}
	return nil
}

// unsupported names the ways to push of p that Tether's own mappers do not know.
func unsupported(p *v1beta1.PushMethod) (ways []string) {
	if p == nil {
		return nil
	}
	db := p.DBMethod
	if db == nil {
		db = &v1beta1.DBMethod{}
	}
	for _, way := range []struct {
		name string
		set  bool
	}{{"otel", p.OTEL != nil}, {"influxdb2", db.Influxdb2 != nil}, {"redis", db.Redis != nil}, {"TDEngine", db.TDEngine != nil}, {"mysql", db.MySQL != nil},
		{"anomalyDetection", p.AnomalyDetection != nil}} {
		if way.set {
			ways = append(ways, way.name)
		}
	}
	return ways
}

func pushToDMI(p *v1beta1.PushMethod) (*dmi.PushMethod, error) {
	if p == nil {
		return nil, nil
	}
	out := &dmi.PushMethod{DbMethod: databaseToDMI(p.DBMethod)}
	if h := p.HTTP; h != nil {
		out.Http = &dmi.PushMethodHTTP{Hostname: h.HostName, Port: h.Port, Requestpath: h.RequestPath, Timeout: h.Timeout}
	}
	if m := p.MQTT; m != nil {
		out.Mqtt = &dmi.PushMethodMQTT{Address: m.Address, Topic: m.Topic, Qos: m.QoS, Retained: m.Retained}
	}
	if o := p.OTEL; o != nil {
		out.Otel = &dmi.PushMethodOTEL{EndpointURL: o.EndpointURL}
	}
	if a := p.AnomalyDetection; a != nil {
		data, err := ConfigToDMI(a.Raw)
		if err != nil {
			return nil, fmt.Errorf("anomalyDetection: %w", err)
		}
		out.AnomalyDetection = &dmi.AnomalyDetection{Data: data}
	}
	return out, nil
}

func databaseToDMI(d *v1beta1.DBMethod) *dmi.DBMethod {
	if d == nil {
		return nil
	}
	out := &dmi.DBMethod{}
	if i := d.Influxdb2; i != nil {
		out.Influxdb2 = &dmi.DBMethodInfluxdb2{}
		if c := i.ClientConfig; c != nil {
			out.Influxdb2.Influxdb2ClientConfig = &dmi.Influxdb2ClientConfig{Url: c.URL, Org: c.Org, Bucket: c.Bucket}
		}
		if c := i.DataConfig; c != nil {
			out.Influxdb2.Influxdb2DataConfig = &dmi.Influxdb2DataConfig{Measurement: c.Measurement, Tag: c.Tag, FieldKey: c.FieldKey}
		}
	}
	if r := d.Redis; r != nil {
		out.Redis = &dmi.DBMethodRedis{}
		if c := r.ClientConfig; c != nil {
			out.Redis.RedisClientConfig = &dmi.RedisClientConfig{Addr: c.Addr, Db: c.DB, Poolsize: c.PoolSize, MinIdleConns: c.MinIdleConns}
		}
	}
	if t := d.TDEngine; t != nil {
		out.Tdengine = &dmi.DBMethodTDEngine{}
		if c := t.ClientConfig; c != nil {
			out.Tdengine.TdEngineClientConfig = &dmi.TDEngineClientConfig{Addr: c.Addr, Dbname: c.DBName}
		}
	}
	if m := d.MySQL; m != nil {
		out.Mysql = &dmi.DBMethodMySQL{}
		if c := m.ClientConfig; c != nil {
			out.Mysql.MysqlClientConfig = &dmi.MySQLClientConfig{Addr: c.Addr, Database: c.Database, UserName: c.UserName}
		}
	}
	return out
}

func pushFromDMI(p *dmi.PushMethod) (*v1beta1.PushMethod, error) {
	if p == nil {
		return nil, nil
	}
	out := &v1beta1.PushMethod{DBMethod: databaseFromDMI(p.GetDbMethod())}
	if h := p.GetHttp(); h != nil {
		out.HTTP = &v1beta1.PushMethodHTTP{HostName: h.GetHostname(), Port: h.GetPort(), RequestPath: h.GetRequestpath(), Timeout: h.GetTimeout()}
	}
	if m := p.GetMqtt(); m != nil {
		out.MQTT = &v1beta1.PushMethodMQTT{Address: m.GetAddress(), Topic: m.GetTopic(), QoS: m.GetQos(), Retained: m.GetRetained()}
	}
	if o := p.GetOtel(); o != nil {
		out.OTEL = &v1beta1.PushMethodOTEL{EndpointURL: o.GetEndpointURL()}
	}
	data, err := ConfigFromDMI(p.GetAnomalyDetection().GetData())
	if err != nil {
		return nil, fmt.Errorf("anomalyDetection: %w", err)
	}
	if data != nil {
		out.AnomalyDetection = &runtime.RawExtension{Raw: data}
	}
	return out, nil
}

func databaseFromDMI(d *dmi.DBMethod) *v1beta1.DBMethod {
	if d == nil {
		return nil
	}
	out := &v1beta1.DBMethod{}
	if i := d.GetInfluxdb2(); i != nil {
		out.Influxdb2 = &v1beta1.DBMethodInfluxdb2{}
		if c := i.GetInfluxdb2ClientConfig(); c != nil {
			out.Influxdb2.ClientConfig = &v1beta1.Influxdb2ClientConfig{URL: c.GetUrl(), Org: c.GetOrg(), Bucket: c.GetBucket()}
		}
		if c := i.GetInfluxdb2DataConfig(); c != nil {
			out.Influxdb2.DataConfig = &v1beta1.Influxdb2DataConfig{Measurement: c.GetMeasurement(), FieldKey: c.GetFieldKey(), Tag: c.GetTag()}
		}
	}
	if r := d.GetRedis(); r != nil {
		out.Redis = &v1beta1.DBMethodRedis{}
		if c := r.GetRedisClientConfig(); c != nil {
			out.Redis.ClientConfig = &v1beta1.RedisClientConfig{Addr: c.GetAddr(), DB: c.GetDb(), PoolSize: c.GetPoolsize(), MinIdleConns: c.GetMinIdleConns()}
		}
	}
	if t := d.GetTdengine(); t != nil {
		out.TDEngine = &v1beta1.DBMethodTDEngine{}
		if c := t.GetTdEngineClientConfig(); c != nil {
			out.TDEngine.ClientConfig = &v1beta1.TDEngineClientConfig{Addr: c.GetAddr(), DBName: c.GetDbname()}
		}
	}
	if m := d.GetMysql(); m != nil {
		out.MySQL = &v1beta1.DBMethodMySQL{}
		if c := m.GetMysqlClientConfig(); c != nil {
			out.MySQL.ClientConfig = &v1beta1.MySQLClientConfig{Addr: c.GetAddr(), Database: c.GetDatabase(), UserName: c.GetUserName()}
		}
	}
	return out
}
