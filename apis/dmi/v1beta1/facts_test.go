package v1beta1

// facts are the interface as mappers know it, written from the list of its names, not from the .proto files: a message a
// line, each field as name number type. "[]" is repeated, "map" is map<string, ...>, other types are messages here.
const facts = `
MapperRegisterRequest: withData 1 bool, mapper 2 MapperInfo
MapperRegisterResponse: modelList 1 []DeviceModel, deviceList 2 []Device
MapperInfo: name 1 string, version 2 string, api_version 3 string, protocol 4 string, address 5 bytes, state 6 string
ReportDeviceStatusRequest: deviceName 1 string, reportedDevice 2 DeviceStatus, deviceNamespace 3 string
ReportDeviceStatusResponse:
ReportDeviceStatesRequest: deviceName 1 string, deviceNamespace 2 string, state 3 string
ReportDeviceStatesResponse:
RegisterDeviceRequest: device 1 Device
RegisterDeviceResponse: deviceName 1 string, deviceNamespace 2 string
UpdateDeviceRequest: device 1 Device
UpdateDeviceResponse:
RemoveDeviceRequest: deviceName 1 string, deviceNamespace 2 string
RemoveDeviceResponse:
GetDeviceRequest: deviceName 1 string, deviceNamespace 2 string
GetDeviceResponse: device 1 Device
CreateDeviceModelRequest: model 1 DeviceModel
CreateDeviceModelResponse: deviceModelName 1 string, deviceModelNamespace 2 string
UpdateDeviceModelRequest: model 1 DeviceModel
UpdateDeviceModelResponse:
RemoveDeviceModelRequest: modelName 1 string, modelNamespace 2 string
RemoveDeviceModelResponse:
DeviceModel: name 1 string, spec 2 DeviceModelSpec, namespace 3 string
DeviceModelSpec: properties 1 []ModelProperty, commands 2 []DeviceCommand
ModelProperty: name 1 string, description 2 string, type 3 string, accessMode 4 string, minimum 5 string, maximum 6 string, unit 7 string
DeviceCommand: name 1 string, url 2 string, method 3 string, status_code 4 []string, parameters 5 []string, response 6 bytes
Device: name 1 string, spec 2 DeviceSpec, status 3 DeviceStatus, namespace 4 string
DeviceSpec: deviceModelReference 1 string, protocol 2 ProtocolConfig, properties 3 []DeviceProperty, methods 4 []DeviceMethod
DeviceMethod: name 1 string, description 2 string, propertyNames 3 []string
DeviceProperty: name 1 string, desired 2 TwinProperty, visitors 3 VisitorConfig, reportCycle 4 int64, collectCycle 5 int64, reportToCloud 6 bool, pushMethod 7 PushMethod
ProtocolConfig: protocolName 1 string, configData 2 CustomizedValue
VisitorConfig: protocolName 1 string, configData 2 CustomizedValue
CustomizedValue: data 1 map Any
PushMethod: http 1 PushMethodHTTP, mqtt 2 PushMethodMQTT, dbMethod 3 DBMethod, otel 4 PushMethodOTEL, anomalyDetection 5 AnomalyDetection
PushMethodHTTP: hostname 1 string, port 2 int64, requestpath 3 string, timeout 4 int64
PushMethodMQTT: address 1 string, topic 2 string, qos 3 int32, retained 4 bool
PushMethodOTEL: endpointURL 1 string
DBMethod: influxdb2 1 DBMethodInfluxdb2, redis 2 DBMethodRedis, tdengine 3 DBMethodTDEngine, mysql 4 DBMethodMySQL
DBMethodInfluxdb2: influxdb2ClientConfig 1 Influxdb2ClientConfig, influxdb2DataConfig 2 Influxdb2DataConfig
Influxdb2ClientConfig: url 1 string, org 2 string, bucket 3 string
Influxdb2DataConfig: measurement 1 string, tag 2 map string, fieldKey 3 string
DBMethodRedis: redisClientConfig 1 RedisClientConfig
RedisClientConfig: addr 1 string, db 2 int32, poolsize 3 int32, minIdleConns 4 int32
DBMethodTDEngine: tdEngineClientConfig 1 TDEngineClientConfig
TDEngineClientConfig: addr 1 string, dbname 2 string
DBMethodMySQL: mysqlClientConfig 1 MySQLClientConfig
MySQLClientConfig: addr 1 string, database 2 string, userName 3 string
AnomalyDetection: data 1 map Any
DeviceStatus: twins 1 []Twin, reportToCloud 2 bool, reportCycle 3 int64
Twin: propertyName 1 string, observedDesired 2 TwinProperty, reported 3 TwinProperty
TwinProperty: value 1 string, metadata 2 map string
`

// calls are the methods of the services; X takes XRequest and returns XResponse.
var calls = map[string][]string{
	"v1beta1.DeviceManagerService": {"MapperRegister", "ReportDeviceStatus", "ReportDeviceStates"},
	"v1beta1.DeviceMapperService": {
		"RegisterDevice", "RemoveDevice", "UpdateDevice", "CreateDeviceModel", "RemoveDeviceModel", "UpdateDeviceModel", "GetDevice",
	},
}
