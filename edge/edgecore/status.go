package edgecore

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/tether-edge/tether/edge/horizon"
	"github.com/tether-edge/tether/edge/kubelet"
	"github.com/tether-edge/tether/edge/link"
	"github.com/tether-edge/tether/edge/seal"
	"github.com/tether-edge/tether/edge/steward"
	"github.com/tether-edge/tether/edge/store"
)

// Status is what /status on the metrics address answers, as JSON: how the node's parts are.
type Status struct {
	Node    string         `json:"node"`
	Link    link.Status    `json:"link"`
	Store   store.Status   `json:"store"`
	Sealing seal.Status    `json:"sealing"`
	Kubelet kubelet.Status `json:"kubelet"`
	// Outbox is what waits for the cloud, by class; empty if nothing does.
	Outbox []store.Waiting `json:"outbox"`
	// Kept is what the site has without the cluster.
	steward.Summary
	// Unread says why Outbox is not known.
	Unread string `json:"unread,omitempty"`
	// Autonomy is how long the node can go on alone; absent before the first look.
	Autonomy *horizon.Judgement `json:"autonomy,omitempty"`
}

func (e *EdgeCore) status(w http.ResponseWriter, r *http.Request) {
	s := Status{Node: e.cfg.NodeName, Link: e.link.Status(), Store: e.store.Status(), Sealing: e.seal.Status(), Kubelet: e.kubelet.Status(), Summary: e.steward.Summary(),
		Autonomy: e.autonomy.Status()}
	if err := e.stored(r.Context(), &s); err != nil {
		s.Unread = err.Error()
	}
	w.Header().Set("Content-Type", "application/json")
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(s)
}

// storeTimeout bounds the wait for the database: the rest of the status is not to wait for a disk that hangs.
const storeTimeout = 2 * time.Second

// stored fills in what only the database knows.
func (e *EdgeCore) stored(ctx context.Context, s *Status) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	waiting, err := e.store.Waiting(ctx)
	s.Outbox = append([]store.Waiting{}, waiting...)
	return err
}
