package upstream

import (
	"context"
	"fmt"
	"net/http"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/wire"
)

// deviceStatus hands a device's status to who owns it. It is no write in the node's name: the Node authorizer knows no
// devices.
func (a *Applier) deviceStatus(ctx context.Context, node string, w *wire.Write) *wire.Result {
	refuse := func(err error) *wire.Result {
		a.m.malformed.Inc()
		a.deps.Log.Warn("an edge sent the status of a device that cannot be taken: it is dropped", "node", node, "key", keyOf(w).String(), "err", err)
		return &wire.Result{Code: http.StatusBadRequest, Final: true, Reason: "BadRequest", Message: err.Error()}
	}
	switch {
	case a.deps.Devices == nil:
		return refuse(fmt.Errorf("%s: this cloudcore has no devices", keyOf(w)))
	case w.Op != wire.Op_OP_PUT:
		return refuse(fmt.Errorf("%s: operation %s: an edge puts the status of a device whole", keyOf(w), opName(w.Op)))
	}
	if n := wire.OpenSize(w.Body, w.Compression); n > v1beta1.MaxReport {
		return refuse(fmt.Errorf("%s: %d bytes, expected at most %d", keyOf(w), n, v1beta1.MaxReport))
	}
	body, err := a.deps.Compressor.Open(w.Body, w.Compression)
	if err != nil {
		return refuse(fmt.Errorf("%s: %w", keyOf(w), err))
	}
	return a.deps.Devices(ctx, node, keyOf(w), w.Uid, body)
}
