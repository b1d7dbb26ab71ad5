package edgecore

import (
	"github.com/tether-edge/tether/edge/edgecore/autonomy"
	"github.com/tether-edge/tether/edge/kubelet"
)

// buildAutonomy makes what says how long the node can go on alone.
func (e *EdgeCore) buildAutonomy() {
	e.autonomy = autonomy.New(e.cfg, autonomy.Deps{Store: e.store, Images: e.images, Credentials: kubelet.PullCredentials, Node: e.own,
		Linked: func() bool { return e.link.Status().Connected }, LogsDir: kubelet.PodLogsDir, LogsOfAContainer: kubelet.LogsOfAContainer,
		Log: e.part("autonomy"), Now: e.deps.Now, Registry: e.reg})
}
