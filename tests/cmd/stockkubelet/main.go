// Command stockkubelet is upstream's kubelet and nothing else: the baseline of the benchmarks, and a second opinion when
// the embedded one behaves oddly. It takes the stock flags.
package main

import (
	"context"
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kubelet/app"
)

func main() {
	os.Exit(cli.Run(app.NewKubeletCommand(context.Background())))
}
