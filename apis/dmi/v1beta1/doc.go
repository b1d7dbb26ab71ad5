// Package v1beta1 is the Device Mapper Interface: what the edge and its mappers, the programs that speak to devices in
// their protocols, say to each other by gRPC over Unix sockets.
//
// It promises that mappers which were built for KubeEdge's v1beta1 interface are understood and understand: service and
// method names, field numbers and types are those of that interface, and a test holds the descriptors against a table of
// them. edge/mapper serves DeviceManagerService and calls DeviceMapperService, mappers the other way round.
//
// The messages are in a proto package of their own and the services alone in v1beta1, because the kubelet's device plugin
// interface, which edgecore links too, has messages Device and DeviceSpec in v1beta1, and a process registers each name
// once. On the wire nobody sees a message's name; a service's is the path of its calls.
package v1beta1

//go:generate protoc -I ../../.. --go_out=../../.. --go_opt=paths=source_relative --go-grpc_out=../../.. --go-grpc_opt=paths=source_relative apis/dmi/v1beta1/messages.proto apis/dmi/v1beta1/services.proto
