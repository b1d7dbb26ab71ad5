package device

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	dmi "github.com/tether-edge/tether/apis/dmi/v1beta1"
)

// ReasonNotSupportedYet is that of a PushSupported condition.
const ReasonNotSupportedYet = "NotSupportedYet"

// UnsupportedPushes says, for a condition, which values Tether's own mappers cannot push yet; empty where they can push all. It is
// no finding against the Device: it works, and so may the push with another's mapper.
func UnsupportedPushes(d *v1beta1.Device) string {
	var said []string
	n := 0
	for i := range d.Spec.Properties {
		p := &d.Spec.Properties[i]
		ways := unsupported(p.PushMethod)
		if len(ways) == 0 {
			continue
		}
		if n++; n <= maxSaid {
			said = append(said, cut(quote(p.Name)+" ("+strings.Join(ways, ", ")+")"))
		}
	}
	if n == 0 {
		return ""
	}
	if n > maxSaid {
		said = append(said, fmt.Sprintf("and %d more", n-maxSaid))
	}
	return "expected pushMethod http or mqtt, found others, which Tether's mappers do not support yet: of property " + strings.Join(said, ", ")
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
	}{{"otel", p.OTEL != nil}, {"influxdb2", db.Influxdb2 != nil}, {"redis", db.Redis != nil}, {"TDEngine", db.TDEngine != nil}, {"mysql", db.MySQL != nil}} {
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
