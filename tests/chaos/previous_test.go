package chaos

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// An older program refuses a file that names fields which it does not know: only what somebody has set may be in it.
func TestAnOlderProgramIsToldWhatWasSetAndNothingElse(t *testing.T) {
	cfg := v1alpha1.DefaultCloudCore()
	cfg.Hub.BindAddress, cfg.Hub.WebSocketPort, cfg.Kubeconfig = "10.0.0.1", 4, "/k"
	whole, err := v1alpha1.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	from, to := filepath.Join(t.TempDir(), "cloudcore.yaml"), filepath.Join(t.TempDir(), "said.yaml")
	if err := os.WriteFile(from, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeSaid(from, to); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if want := "apiVersion: " + v1alpha1.APIVersion + "\nhub:\n  bindAddress: 10.0.0.1\n  webSocketPort: 4\nkind: CloudCore\nkubeconfig: /k\n"; string(said) != want {
		t.Errorf("the file is\n%s\nexpected\n%s", said, want)
	}
}
