package autonomy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/edge/edgecore/ownnode"
	"github.com/tether-edge/tether/edge/horizon"
)

func TestPodsAreHeldAgainstTheImagesThatAreHere(t *testing.T) {
	w := newWorld(t)
	w.here = map[string]bool{"h/a": true, "h/b": true, "h/c": true}
	w.given = map[string]string{"h/b": "ann", "h/c": everybody}
	secret := func(name string, data map[string][]byte) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: meta(name), Data: data}
	}
	w.put(object.Secrets, secret("ann", map[string][]byte{"user": []byte("ann")}), secret("bob", map[string][]byte{"user": []byte("bob")}), secret("bad", nil))
	token := pod("6-token", "h/a", corev1.PullIfNotPresent)
	token.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}}}}
	w.put(object.Pods, pod("0-here", "h/a", corev1.PullIfNotPresent), pod("1-missing", "h/x", corev1.PullIfNotPresent), pod("2-given", "h/b", corev1.PullAlways, "absent", "ann"),
		pod("3-other", "h/b", corev1.PullAlways, "bob"), pod("4-unreadable", "h/b", corev1.PullAlways, "ann", "bad"), pod("5-nobody", "h/b", corev1.PullAlways), token,
		pod("7-open", "h/c", corev1.PullAlways), pod("8-unreadable", "h/c", corev1.PullAlways, "bad"))
	ends := w.now.Add(time.Hour)
	if err := w.store.SaveToken(t.Context(), "k", "6-token", []byte("x"), ends); err != nil {
		t.Fatal(err)
	}
	pods, err := w.sources().Pods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, p := range pods {
		line := p.Name
		for _, i := range p.Images {
			line += fmt.Sprintf(" %s here %v given %v", i.Image, i.Here, i.Given)
		}
		if p.NeedsToken {
			line += fmt.Sprintf(", token %v", p.Token.Equal(ends))
		}
		said = append(said, line)
	}
	if got, want := strings.Join(said, "\n"), `shop/0-here h/a here true given false
shop/1-missing h/x here false given false
shop/2-given h/b here true given true
shop/3-other h/b here true given false
shop/4-unreadable h/b here true given false
shop/5-nobody h/b here true given false
shop/6-token h/a here true given false, token true
shop/7-open h/c here true given true
shop/8-unreadable h/c here true given false`; got != want {
		t.Errorf("found\n%s\nexpected\n%s", got, want)
	}
}

// A fence holds for pods that ask for it, and for none that are static: these nobody ends.
func TestAFenceIsOfPodsThatAskForIt(t *testing.T) {
	w := newWorld(t)
	asks, static := pod("1-asks", "h/a", corev1.PullIfNotPresent), pod("2-static", "h/a", corev1.PullIfNotPresent)
	asks.Annotations = map[string]string{object.AnnotationFence: "true"}
	static.Annotations = map[string]string{object.AnnotationFence: "true", corev1.MirrorPodAnnotationKey: "x"}
	w.put(object.Pods, pod("0-not", "h/a", corev1.PullIfNotPresent), asks, static)
	for _, on := range []bool{true, false} {
		s := w.sources()
		s.deps.FenceIn = func() (time.Duration, bool) { return time.Hour, on }
		pods, err := s.Pods(t.Context())
		if err != nil || len(pods) != 3 {
			t.Fatalf("found %+v, %v", pods, err)
		}
		for i, asks := range []bool{false, true, false} {
			if p := pods[i]; p.Fences != (asks && on) || p.Fences && p.Fence != time.Hour {
				t.Errorf("pod %s is fenced: %v, after %s", p.Name, p.Fences, p.Fence)
			}
		}
	}
}

func TestTheCertificatesFileSaysUntilWhenItCanBeExchanged(t *testing.T) {
	w := newWorld(t)
	c, err := w.sources().Certificate(t.Context())
	if err != nil || c.NotAfter.IsZero() || !c.Renewable.Equal(c.NotAfter.Add(90*24*time.Hour)) {
		t.Errorf("read %+v, %v", c, err)
	}
	w.certify(time.Hour, 0)
	if c, err = w.sources().Certificate(t.Context()); err != nil || c.NotAfter.IsZero() || !c.Renewable.IsZero() {
		t.Errorf("of a CloudCore that does not say: %+v, %v", c, err)
	}
	if err := os.WriteFile(w.cfg.Cloud.CertFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = w.sources().Certificate(t.Context()); err == nil {
		t.Error("an empty file is a certificate")
	}
}

func TestDisksAreHeldAgainstWhatEvicts(t *testing.T) {
	w := newWorld(t)
	write := func(path string, size int64) {
		path = filepath.Join(w.cfg.DataDir, "logs", path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("shop_a_1/main/0.log", 1<<20)
	write("shop_a_1/main/0.log.1", 1<<20)
	write("shop_b_2/main/0.log", 0)
	w.cfg.Kubelet.EvictionHard = map[string]string{"nodefs.available": "1Mi", "imagefs.available": "10%", "nodefs.inodesFree": "5%", "imagefs.inodesFree": "100"}
	// without leaves out the inodes, which not every file system has a table of.
	without := func(disks []horizon.Disk) []horizon.Disk {
		return slices.DeleteFunc(slices.Clone(disks), func(d horizon.Disk) bool { return d.Inodes })
	}
	all, err := w.sources().Disks(t.Context())
	disks := without(all)
	if err != nil || len(disks) != 2 {
		t.Fatalf("found %+v, %v: expected the store's and one for kubelet and images", disks, err)
	}
	store, node := disks[0], disks[1]
	own := filepath.Join(w.cfg.DataDir, "store")
	if store.Path != own || store.Cause != horizon.StoreFills || store.Floor != 64<<20 || store.Free <= 0 || store.Total < store.Free {
		t.Errorf("the store's: %+v", store)
	}
	if node.Path != w.cfg.Kubelet.RootDir || node.Cause != horizon.DiskFills || node.Floor != int64(0.1*float64(node.Total)) || node.Logs != 98<<20 {
		t.Errorf("the kubelet's: %+v", node)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(w.cfg.Kubelet.RootDir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Files > 0 {
		if len(all) != 3 {
			t.Fatalf("found %+v, expected its inodes, too", all)
		}
		if i := all[2]; i.Path != node.Path || i.Cause != horizon.DiskFills || i.Total != int64(st.Files) || i.Free <= 0 || i.Floor != max(100, int64(0.05*float64(i.Total))) || i.Logs != 0 {
			t.Errorf("the kubelet's inodes: %+v", i)
		}
	}
	w.mounts = []string{"/proc"} // another file system, without inodes
	all, err = w.sources().Disks(t.Context())
	if disks = without(all); err != nil || len(disks) != 3 || disks[2].Path != "/proc" || disks[1].Floor != 1<<20 || all[len(all)-1].Path != "/proc" || all[len(all)-1].Inodes {
		t.Errorf("with images elsewhere: %+v, %v", all, err)
	}
	w.mounts = []string{filepath.Join(w.cfg.DataDir, "gone"), "/proc"}
	if all, err = w.sources().Disks(t.Context()); err == nil || len(without(all)) != 3 {
		t.Errorf("with one that cannot be looked at: %+v, %v", all, err)
	}
	w.mounts = []string{"/proc"}
	w.cfg.Kubelet.EvictionHard = map[string]string{}
	if disks, err = w.sources().Disks(t.Context()); err != nil || disks[1].Floor != 0 {
		t.Errorf("without eviction: %+v, %v", disks, err)
	}
	// A store that is a mount of its own is looked at where it is.
	if err := os.RemoveAll(own); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc", own); err != nil {
		t.Fatal(err)
	}
	if disks, err = w.sources().Disks(t.Context()); err != nil || disks[0].Path != own || disks[0].Total == store.Total {
		t.Errorf("the store elsewhere: %+v, %v", disks, err)
	}
	w.cfg.Kubelet.RootDir = filepath.Join(w.cfg.DataDir, "none")
	if disks, err = w.sources().Disks(t.Context()); err != nil || len(disks) != 1 {
		t.Errorf("before a kubelet ran: %+v, %v", disks, err)
	}
}

func TestWhatWaitsIsHeldAgainstTheQuota(t *testing.T) {
	w := newWorld(t)
	event := object.Outgoing{Key: object.Key{Kind: object.Events, Namespace: "shop", Name: "e"}, Op: object.OpCreate, Class: object.ClassEvent, Body: make([]byte, 5000), Policy: object.DropOldest}
	state := object.Outgoing{Key: object.Key{Kind: object.Pods, Namespace: "shop", Name: "p"}, UID: "u", Op: object.OpOverlay, Class: object.ClassState, Body: make([]byte, 5000)}
	if err := w.store.Keep(t.Context(), nil, event, state); err != nil {
		t.Fatal(err)
	}
	queues, err := w.sources().Outbox(t.Context())
	if err != nil || len(queues) != 1 || queues[0].Class != "event" || queues[0].Used < 5000 || queues[0].Quota != 8<<20 {
		t.Errorf("found %+v, %v", queues, err)
	}
	w.cfg.Store.EventQuota = 0
	if queues, err = w.sources().Outbox(t.Context()); err != nil || len(queues) != 0 {
		t.Errorf("where nothing is to be kept: %+v, %v", queues, err)
	}
}

// The Node gets the condition beside those of the kubelet, which stay; when it changes its status, and not before, it says when.
func TestTheNodeShowsItBesideWhatTheKubeletWrites(t *testing.T) {
	w := newWorld(t)
	n, ctx := w.node(), t.Context()
	if _, ok, err := n.Shown(ctx); ok || err != nil {
		t.Fatalf("without a Node: %v, %v", ok, err)
	}
	w.put(object.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", Annotations: map[string]string{"a": "b"}},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}}})
	w.sync()
	began := w.now
	for i, s := range []horizon.Shown{{Status: corev1.ConditionTrue, Reason: "LongEnough", Message: "well", Until: "unbounded"},
		{Status: corev1.ConditionTrue, Reason: "LongEnough", Message: "very well", Until: "unbounded"}, {Status: corev1.ConditionFalse, Reason: "ImageMissing", Message: "not well", Until: "x"}} {
		if err := n.Show(ctx, s); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := n.Shown(ctx); err != nil || !ok || got != s {
			t.Errorf("shows %+v, %v, %v, expected %+v", got, ok, err, s)
		}
		o, err := w.api.Nodes().Get(ctx, "edge-1", metav1.GetOptions{})
		if err != nil || len(o.Status.Conditions) != 2 || o.Status.Conditions[0].Reason != "KubeletReady" || o.Annotations["a"] != "b" {
			t.Fatalf("the Node is %+v, %v", o, err)
		}
		if c := ownnode.Condition(o, object.ConditionAutonomy); i < 2 != c.LastTransitionTime.Time.Equal(began) || !c.LastHeartbeatTime.Time.Equal(w.now) {
			t.Errorf("it changed at %v, was seen at %v; now is %v", c.LastTransitionTime, c.LastHeartbeatTime, w.now)
		}
		w.now = w.now.Add(time.Minute)
	}
	if c, until := w.overlay(); c["type"] != object.ConditionAutonomy || c["status"] != "False" || c["reason"] != "ImageMissing" || until != "x" {
		t.Errorf("the cloud is told %v and %q", c, until)
	}
}

func TestAutonomyIsJudgedShownAndTold(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Start(ctx) }()
	w.put(object.Pods, pod("till", "h/till:v1", corev1.PullIfNotPresent))
	w.put(object.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "edge-1", UID: "node-uid"}})
	w.sync()
	eventually(t, "an Event", func() error {
		if told := w.told(); !strings.HasPrefix(told["ImageMissing"], "Warning Node/edge-1 edge-1 by edge-1: pod shop/till, image h/till:v1 is not here") {
			return fmt.Errorf("told %q", told)
		}
		return nil
	})
	eventually(t, "a note of it", func() error {
		told, err := memory{w.store}.Told(ctx)
		if err == nil && (len(told) == 0 || told[0] != horizon.ImageMissing) {
			err = errors.New("it is not noted")
		}
		return err
	})
	if c, _ := w.overlay(); c["status"] != "False" || c["reason"] != "ImageMissing" {
		t.Errorf("the cloud is told %v", c)
	}
	if w.early.Load() {
		t.Error("it judged before the first sync")
	}
	if j := w.Status(); j == nil || !j.Now || len(j.Limits) < 2 || len(j.Unread) != 0 {
		t.Errorf("its status is %+v", j)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
