package edgecore

import (
	"time"

	"github.com/tether-edge/tether/edge/edgecore/autonomy"
	"github.com/tether-edge/tether/edge/kubelet"
)

// buildAutonomy makes what says how long the node can go on alone.
func (e *EdgeCore) buildAutonomy() {
	e.autonomy = autonomy.New(e.cfg, autonomy.Deps{Store: e.store, Images: e.images, Credentials: kubelet.PullCredentials, Node: e.own,
		FenceIn: func() (time.Duration, bool) { return e.steward.FenceIn() },
		Linked:  func() bool { return e.link.Status().Connected }, LogsDir: kubelet.PodLogsDir, LogsOfAContainer: kubelet.LogsOfAContainer,
		Log: e.part("autonomy"), Now: e.deps.Now, Registry: e.reg})
}
