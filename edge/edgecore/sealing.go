package edgecore

import (
	"context"
	"path/filepath"
	"time"

	"github.com/tether-edge/tether/edge/seal"
	"github.com/tether-edge/tether/edge/store"
)

// credentialName is the systemd credential that keys may be sealed with; keadm join gives the unit one.
const credentialName = "tether-seal"

// tpmPatience is how long a start waits for a TPM that was there before.
const tpmPatience = 15 * time.Second

// openSeal opens the keys that the store seals Secrets and tokens with. The store has its directory to itself then, and
// with it the ring of keys is this process's.
func (e *EdgeCore) openSeal(ctx context.Context) (store.Sealer, error) {
	cfg := seal.Config{Dir: filepath.Join(e.cfg.DataDir, "seal"), TPM: e.cfg.Store.TPM, Patience: tpmPatience}
	if dir := e.deps.Credentials; dir != "" {
		cfg.Credential = filepath.Join(dir, credentialName)
	}
	ring, err := seal.Open(ctx, cfg, seal.Deps{Log: e.part("seal"), Now: e.deps.Now, Registerer: e.reg})
	if err != nil {
		return nil, err
	}
	e.seal = ring
	return ring, nil
}
