package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/tests/cluster"
	"github.com/tether-edge/tether/tests/registry"
)

// site is an edge host with a containerd and a registry that it trusts.
type site struct {
	*cluster.EdgeHost
	*registry.Registry
	cluster *cluster.Cluster
}

func newSite(t *testing.T) *site {
	t.Helper()
	c := cluster.ForTest(t)
	h, err := c.NewEdgeHost(t.Context(), cluster.EdgeConfig{Name: "edge"})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{EdgeHost: h, Registry: newRegistry(t, h), cluster: c}
	if err := h.TrustRegistry(s.Registry.Address(), s.Authority()); err != nil {
		t.Fatal(err)
	}
	return s
}

func newRegistry(t *testing.T, h *cluster.EdgeHost) *registry.Registry {
	t.Helper()
	r, err := registry.New(h.RootAddress())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// randomImage is an image of one layer, for this machine.
func randomImage(t *testing.T, size int64) v1.Image {
	t.Helper()
	image, err := random.Image(size, 1)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// push puts a new image under a name.
func (s *site) push(t *testing.T, repository, tag string, size int64) (name string) {
	t.Helper()
	name, err := s.Push(t.Context(), repository, tag, randomImage(t, size))
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestARealContainerdsErrorsTellWhatTheRegistrySaid asks containerd itself.
func TestARealContainerdsErrorsTellWhatTheRegistrySaid(t *testing.T) {
	s := newSite(t)
	conn, err := dial("unix://" + s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := runtimeapi.NewImageServiceClient(conn)
	name := s.push(t, "app", "v1", 1024)
	stranger := newRegistry(t, s.EdgeHost)
	users := map[string]string{"ann": "secret"}
	wrong := &runtimeapi.AuthConfig{Username: "ann", Password: "wrong"}
	say := func(code int) func() { return func() { s.Say(code) } }
	hangUp := func() { s.Answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) }
	tests := []struct {
		name   string
		before func()
		image  string
		auth   *runtimeapi.AuthConfig
		want   answer
	}{
		{name: "up", image: name, want: pulled},
		{name: "no such tag", image: s.Registry.Address() + "/app:none", want: refused},
		{name: "no such repository", image: s.Registry.Address() + "/none:v1", want: refused},
		{name: "no credentials", before: func() { s.Restrict(users) }, image: name, want: refused},
		{name: "wrong credentials", before: func() { s.Restrict(users) }, image: name, auth: wrong, want: refused},
		{name: "right credentials", before: func() { s.Restrict(users) }, image: name, auth: &runtimeapi.AuthConfig{Username: "ann", Password: "secret"}, want: pulled},
		{name: "401", before: say(http.StatusUnauthorized), image: name, want: refused},
		{name: "403", before: say(http.StatusForbidden), image: name, want: refused},
		{name: "404", before: say(http.StatusNotFound), image: name, want: refused},
		{name: "500", before: say(http.StatusInternalServerError), image: name, want: unreachable},
		{name: "502", before: say(http.StatusBadGateway), image: name, want: unreachable},
		{name: "503", before: say(http.StatusServiceUnavailable), image: name, want: unreachable},
		{name: "429", before: say(http.StatusTooManyRequests), image: name, want: unreachable},
		{name: "418", before: say(http.StatusTeapot), image: name, want: failed},
		{name: "hangs up", before: hangUp, image: name, want: unreachable},
		{name: "down", before: func() { _ = s.Close() }, image: name, want: unreachable},
		{name: "a stranger's certificate", image: stranger.Address() + "/app:v1", want: unreachable},
		{name: "no route", image: "10.99.0.1:5000/app:v1", want: unreachable},
		{name: "no address", image: "registry.invalid:5000/app:v1", want: unreachable},
		{name: "no TLS", image: plainServer(t, s.EdgeHost) + "/app:v1", want: unreachable},
		{name: "no name", image: "App//:", want: failed},
	}
	if _, err := s.Run(t.Context(), "ip", "route", "add", "unreachable", "10.99.0.0/16"); err != nil {
		t.Fatal(err)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.Say(0)
			s.Restrict(nil)
			if test.before != nil {
				test.before()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			_, err := client.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: test.image}, Auth: test.auth})
			if got := classify(err); got != test.want {
				t.Errorf("expected %v, found %v: %v", test.want, got, err)
			}
			if test.name == "down" {
				if err := s.Open(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// plainServer is a server that knows no TLS.
func plainServer(t *testing.T, h *cluster.EdgeHost) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(h.RootAddress(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{}
	go func() { _ = server.Serve(l) }() // it ends with Close
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

// kubelet is a kubelet's view of the service of a site.
type kubelet struct {
	t      *testing.T
	client runtimeapi.ImageServiceClient
	conn   *grpc.ClientConn
	stop   func()
}

func (s *site) serve(t *testing.T, cfg Config, deps Deps) kubelet {
	t.Helper()
	cfg.ImageEndpoint = "unix://" + s.Socket()
	conn, stop := service(t, cfg, deps)
	return kubelet{t, runtimeapi.NewImageServiceClient(conn), conn, stop}
}

func (k kubelet) pull(name string, auth *runtimeapi.AuthConfig) (ref string, err error) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	response, err := k.client.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}, Auth: auth,
		SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "shop", Name: "till", Uid: "u1"}}})
	return response.GetImageRef(), err
}

// pulls expects a pull to give an image: ref, or any where it is empty.
func (k kubelet) pulls(name string, auth *runtimeapi.AuthConfig, ref string) string {
	k.t.Helper()
	got, err := k.pull(name, auth)
	if err != nil || ref != "" && got != ref {
		k.t.Fatalf("pull of %s: expected %q, found %q, %v", name, ref, got, err)
	}
	return got
}

// refuses expects a pull to fail in that way.
func (k kubelet) refuses(name string, auth *runtimeapi.AuthConfig, why answer) {
	k.t.Helper()
	if ref, err := k.pull(name, auth); err == nil || classify(err) != why {
		k.t.Errorf("pull of %s: expected an error that says %v, found %q, %v", name, why, ref, err)
	}
}

var (
	ann = &runtimeapi.AuthConfig{Username: "ann", Password: "secret"}
	bob = &runtimeapi.AuthConfig{Username: "bob", Password: "guess"}
)

// TestAnImageServesWhoseRegistryIsNotHeard is the promise to sites: with the credentials that pulled it, in this process or
// an earlier one, and with no others.
func TestAnImageServesWhoseRegistryIsNotHeard(t *testing.T) {
	s := newSite(t)
	name, public := s.push(t, "app", "latest", 1024), s.push(t, "public", "latest", 1024)
	memory, heard := &notes{}, &heardOf{}
	deps := Deps{Memory: memory, Served: heard.add}
	k := s.serve(t, Config{FallBack: true}, deps)
	free := k.pulls(public, nil, "")
	s.Restrict(map[string]string{"ann": "secret"})
	ref := k.pulls(name, ann, "")
	k.refuses(name, bob, refused)
	if n := memory.writes; n != 2 {
		t.Errorf("two images cost %d writes, expected one each", n)
	}
	k.pulls(name, ann, ref)
	if n := memory.writes; n != 2 {
		t.Errorf("a pull that changed nothing cost a write")
	}
	var salts []string
	for key, value := range memory.values {
		var r record
		if err := json.Unmarshal([]byte(value), &r); err != nil || len(r.Salt) != 16 || len(r.Proofs) != 1 {
			t.Fatalf("the note of %s is %s, %v", key, value, err)
		}
		salts = append(salts, string(r.Salt))
		if n := len(r.Proofs[0].Hash); strings.Contains(string(r.Proofs[0].Hash), "secret") || key == name && n != sha256.Size || key == public && n != 0 {
			t.Errorf("the note of %s holds %q, expected a hash of the credentials if there were any", key, r.Proofs[0].Hash)
		}
	}
	if salts[0] == salts[1] {
		t.Error("two names have one salt")
	}

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time by a process that was started anew
		k.pulls(name, ann, ref)
		k.refuses(name, bob, unreachable)
		k.refuses(name, nil, unreachable)
		k.pulls(public, nil, free)
		k.pulls(public, bob, free)
		k.refuses(s.Registry.Address()+"/app:other", ann, unreachable)
		k.stop()
		k = s.serve(t, Config{FallBack: true}, deps)
	}
	told := heard.list()
	if len(told) != 6 {
		t.Fatalf("expected to be told of 6 images that served, found %+v", told)
	}
	if got := told[0]; got.Pod != (Pod{"shop", "till", "u1"}) || got.Image != name || got.Ref != ref || !strings.Contains(got.Reason, "connection refused") {
		t.Errorf("told of %+v", got)
	}

	// The registry's no is obeyed, and stays its last word.
	if err := s.Open(); err != nil {
		t.Fatal(err)
	}
	s.Say(http.StatusForbidden)
	k.refuses(name, ann, refused)
	s.Say(http.StatusServiceUnavailable)
	k.refuses(name, ann, unreachable)
	k.pulls(public, nil, free)
	s.Say(0)
	k.pulls(name, ann, ref)
	s.Say(http.StatusServiceUnavailable)
	k.pulls(name, ann, ref)

	// What is not here cannot serve.
	if _, err := k.client.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}); err != nil {
		t.Fatal(err)
	}
	k.refuses(name, ann, unreachable)
	if len(memory.values) != 1 {
		t.Errorf("a removed image left its proof: %v", memory.values)
	}

	off := s.serve(t, Config{}, Deps{Memory: memory})
	off.refuses(public, nil, unreachable)
}

// TestWhatServesIsWhatTheCredentialsPulled: a name that others moved on serves nobody an image that the registry did not
// give to them.
func TestWhatServesIsWhatTheCredentialsPulled(t *testing.T) {
	s := newSite(t)
	k := s.serve(t, Config{FallBack: true}, Deps{})
	name := s.push(t, "app", "latest", 1024)
	old := k.pulls(name, ann, "")
	s.push(t, "app", "latest", 1024)
	newer := k.pulls(name, bob, "")
	if old == newer {
		t.Fatal("expected two images")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	k.pulls(name, ann, old)
	k.pulls(name, bob, newer)

	// Somebody removed it at the runtime itself.
	runtime, err := dial("unix://" + s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close()
	if _, err := runtimeapi.NewImageServiceClient(runtime).RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: old}}); err != nil {
		t.Fatal(err)
	}
	k.refuses(name, ann, unreachable)
	k.pulls(name, bob, newer)
}

// TestARegistryThatHangsHoldsNoPodUp: the image that is here serves, the pull goes on, and who asks again joins it.
func TestARegistryThatHangsHoldsNoPodUp(t *testing.T) {
	s := newSite(t)
	k := s.serve(t, Config{FallBack: true, Patience: time.Second, Hurry: 100 * time.Millisecond, MaxPulls: 1}, Deps{})
	name := s.push(t, "app", "latest", 1024)
	ref := k.pulls(name, nil, "")
	s.Hang()
	// A pull of what is not here has nothing else to serve. It must not hold up the others.
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	go func() {
		_, err := k.client.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: s.Registry.Address() + "/other:v1"}})
		waits <- err
	}()
	cluster.Eventually(t, time.Minute, "the pull of what is not here to be asked for", func() error {
		if s.Requests("HEAD /v2/other/") == 0 {
			return errors.New("no request")
		}
		return nil
	})
	for range 3 {
		k.pulls(name, nil, ref)
	}
	if n := s.Requests("HEAD /v2/app/"); n != 2 {
		t.Errorf("the registry that hangs was asked %d times, expected once", n-1)
	}
	// Another that answers is not behind it, though one download runs at a time.
	other := newRegistry(t, s.EdgeHost)
	if err := s.TrustRegistry(other.Address(), other.Authority()); err != nil {
		t.Fatal(err)
	}
	lively, err := other.Push(t.Context(), "app", "v1", randomImage(t, 1024))
	if err != nil {
		t.Fatal(err)
	}
	k.pulls(lively, nil, "")
	cancel()
	if err := <-waits; status.Code(err) != codes.Canceled {
		t.Errorf("expected the pull that nobody waits for to end, found %v", err)
	}
}

// TestANewerImageIsWaitedForWhileItArrives: a link that is slow is not one that is cut.
func TestANewerImageIsWaitedForWhileItArrives(t *testing.T) {
	s := newSite(t)
	k := s.serve(t, Config{FallBack: true, Patience: 4 * time.Second}, Deps{})
	name := s.push(t, "app", "latest", 1024)
	old := k.pulls(name, nil, "")
	s.push(t, "app", "latest", 80<<10)
	s.Trickle(1<<10, 100*time.Millisecond)
	if ref := k.pulls(name, nil, ""); ref == old {
		t.Error("the old image served while the new one was on its way")
	}
}

// TestTheImagesOfPodsArePinned, by whatever name, and nobody else's; the runtime knows nothing of it.
func TestTheImagesOfPodsArePinned(t *testing.T) {
	s := newSite(t)
	archives, err := cluster.Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Import(t.Context(), archives...); err != nil {
		t.Fatal(err)
	}
	pauseName, nobodys := archives[0].Name, archives[1].Name // containerd's sandbox image, and one that no pod has
	var trouble error
	name, other := s.push(t, "app", "latest", 1024), s.push(t, "other", "v1", 1024)
	pods := []string{strings.TrimSuffix(name, ":latest"), "never/pulled:v1", "no name", "UPPER/Case:v1", "@sha256:0"}
	k := s.serve(t, Config{FallBack: true}, Deps{Pods: func(context.Context) ([]string, error) { return pods, trouble }})
	old, pause := k.pulls(name, ann, ""), ""
	k.pulls(other, nil, "")
	s.push(t, "app", "latest", 1024)
	newer := k.pulls(name, nil, "")
	list := func(client runtimeapi.ImageServiceClient) (pinned []string, n int) {
		t.Helper()
		l, err := client.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range l.Images {
			if slices.Contains(i.RepoTags, pauseName) {
				pause = i.Id
			}
			if i.Pinned {
				pinned = append(pinned, i.Id)
			}
		}
		slices.Sort(pinned)
		return pinned, len(l.Images)
	}
	got, n := list(k.client)
	want := []string{old, newer, pause}
	slices.Sort(want)
	if n != 5 || !slices.Equal(got, want) {
		t.Errorf("of %d images are pinned %q, expected %q of 5", n, got, want)
	}
	for image, want := range map[string]bool{name: true, pauseName: true, other: false, nobodys: false} {
		r, err := k.client.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
		if err != nil || r.Image.GetPinned() != want {
			t.Errorf("image %s: expected pinned to be %t, found %v, %v", image, want, r, err)
		}
	}
	runtime, err := dial("unix://" + s.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer runtime.Close()
	if got, _ := list(runtimeapi.NewImageServiceClient(runtime)); len(got) != 0 {
		t.Errorf("the runtime itself shows %q as pinned", got)
	}
	trouble = errors.New("the disk hangs")
	if got, n := list(k.client); len(got) != n {
		t.Errorf("the pods are not known, so all of %d images are to stay: found %d pinned", n, len(got))
	}
}

// TestARuntimeThatWasStartedAgainIsFound by the same service.
func TestARuntimeThatWasStartedAgainIsFound(t *testing.T) {
	s := newSite(t)
	k := s.serve(t, Config{FallBack: true}, Deps{})
	name := s.push(t, "app", "latest", 1024)
	ref := k.pulls(name, nil, "")
	if err := s.Containerd().Kill(); err != nil {
		t.Fatal(err)
	}
	k.refuses(name, nil, failed)
	if err := s.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, time.Minute, "the runtime to be found again", func() error {
		_, err := k.client.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
		return err
	})
	k.pulls(name, nil, ref)
}
