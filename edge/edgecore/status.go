package edgecore

import (
	"encoding/json"
	"net/http"

	"github.com/tether-edge/tether/edge/kubelet"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/edge/store"
)

// Status is what /status on the metrics address answers, as JSON: how the node's parts are.
type Status struct {
	Node    string         `json:"node"`
	Link    link.Status    `json:"link"`
	Store   store.Status   `json:"store"`
	Kubelet kubelet.Status `json:"kubelet"`
}

func (e *EdgeCore) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(Status{Node: e.cfg.NodeName, Link: e.link.Status(), Store: e.store.Status(), Kubelet: e.kubelet.Status()})
}
