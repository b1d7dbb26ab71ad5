package cluster

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestContainerdConfigFitsItsVersion(t *testing.T) {
	config := containerdConfig{
		Root: "/d/disk/containerd", State: "/d/run/containerd", Socket: "/d/run/containerd.sock", Runc: "/usr/sbin/runc",
		CNIBin: "/usr/lib/cni", CNIConf: "/etc/cni/net.d", Pause: "tether.local/pause:v1", Snapshotter: "overlayfs",
		Registries: "/d/disk/registries", RestrictOOMScore: true,
	}
	versions := map[string]string{
		"debian12": "containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3",
		"debian13": "containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1",
		"v2":       "containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376",
	}
	for name, text := range versions {
		v, err := parseVersion(text)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", "containerd-"+name+".toml")
		found := config.text(v)
		if *update {
			if err := os.WriteFile(path, []byte(found), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if found != string(want) {
			t.Errorf("%s: expected\n%s\nfound\n%s", path, want, found)
		}
	}
}

func TestAContainerdVersionThatIsNoneIsRefused(t *testing.T) {
	for _, text := range []string{"", "containerd", "containerd x y", "containerd x v2"} {
		if v, err := parseVersion(text); err == nil {
			t.Errorf("%q: expected an error, found %+v", text, v)
		}
	}
}
