package main

import (
	_ "github.com/google/go-containerregistry/pkg/v1/tarball"
	_ "github.com/gorilla/websocket"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/mattn/go-sqlite3"
	_ "github.com/prometheus/client_golang/prometheus/promhttp"
	_ "github.com/spf13/cobra"
	_ "go.etcd.io/etcd/server/v3/etcdmain"
	_ "go.uber.org/goleak"
	_ "google.golang.org/protobuf/proto"
	_ "k8s.io/kubernetes/cmd/kube-apiserver/app"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	_ "k8s.io/kubernetes/cmd/kube-scheduler/app"
	_ "k8s.io/kubernetes/cmd/kubelet/app"
	_ "k8s.io/kubernetes/plugin/pkg/auth/authorizer/node"
	_ "k8s.io/kubectl/pkg/cmd"
	_ "k8s.io/cri-client/pkg"
	_ "pgregory.net/rapid"
	_ "sigs.k8s.io/yaml"
	_ "golang.org/x/sys/unix"
	_ "github.com/vishvananda/netlink"
	_ "github.com/vishvananda/netns"
	_ "github.com/google/go-cmp/cmp"
	_ "golang.org/x/sync/errgroup"
	_ "sigs.k8s.io/json"
)

func main() {}
