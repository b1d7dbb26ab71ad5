package keadm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// atGateway is a machine with an edgecore of that status and with that local API. Its certificate is as old as the machine.
func atGateway(t *testing.T, status string, api http.HandlerFunc) (edgeFiles, *v1alpha1.EdgeCore) {
	t.Helper()
	ca := newCA(t, func() time.Time { return today })
	files := node(t, ca, "edge-1", 7*24*time.Hour)
	cfg := edgecore(t, files, status, joinPort(t, ca))
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	cfg.API.BindAddress = server.Listener.Addr().String()
	writeEdgeConfig(t, files, cfg)
	put(t, files.data, "store/edge.db", strings.Repeat("x", 2048))
	put(t, files.data, "admin.kubeconfig", fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q}}],
		"contexts":[{"name":"c","context":{"cluster":"c"}}]}`, server.URL))
	return files, cfg
}

// answerWith writes an object as the API does.
func answerWith(t *testing.T, w http.ResponseWriter, o any) {
	t.Helper()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(o); err != nil {
		t.Error(err)
	}
}

// waitingPod has a container that does not start.
func waitingPod(name, reason string) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
		{Name: "a", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
		{Name: "b", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}},
	}}}
}

const offline = `{"node":"edge-1","link":{"connected":false,"since":"2030-06-01T11:00:00Z","problem":"no route to host"},
 "sealing":{"source":"tpm"},"store":{},"kubelet":{"state":"running","since":"2030-05-31T12:00:00Z","attempts":0},"held":["shop/kept"],"standIns":["shop/web-stand-in-1"],"fenced":["shop/single"],
 "outbox":[{"class":"state","count":3,"bytes":4000,"oldest":"2030-06-01T11:30:00Z"},{"class":"event","count":12,"bytes":96,"oldest":"2030-06-01T11:10:00Z"}]}`

func TestStatusSaysOnOneScreenHowANodeIs(t *testing.T) {
	files, cfg := atGateway(t, offline, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/apis/devices.kubeedge.io/v1beta1/devices" {
			answerWith(t, w, metav1.PartialObjectMetadataList{TypeMeta: metav1.TypeMeta{Kind: "DeviceList", APIVersion: "devices.kubeedge.io/v1beta1"},
				Items: make([]metav1.PartialObjectMetadata, 3)})
			return
		}
		answerWith(t, w, corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "kept"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}},
			waitingPod("crashes", "CrashLoopBackOff"),
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "new"}, Status: corev1.PodStatus{Phase: corev1.PodPending}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "task"}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}},
		}})
	})
	code, out, errOut := call(t, today, "ctl", "status", "--config", files.config)
	if code != 0 || errOut != "" {
		t.Errorf("exit %d of a node that is offline and well:\n%s", code, errOut)
	}
	disk := out[strings.Index(out, "disk "):]
	if want := `node         edge-1
link         down since 2030-06-01 11:00:00 UTC (1h): no route to host; trying ` + cfg.Cloud.Servers[0] + `
outbox       3 of class state, 12 of class event wait for the cloud, 4.0 KiB, the oldest since 2030-06-01 11:10:00 UTC (50m0s)
kubelet      running since 2030-05-31 12:00:00 UTC (24h)
pods         1 running, 2 waiting: shop/crashes (CrashLoopBackOff), shop/new (Pending), 1 ended, 1 held though the cluster lost the node: shop/kept, 1 stand-in for what ended while the cluster was away: shop/web-stand-in-1, 1 ended until the cloud is heard again: shop/single
devices      3
sealing      stored Secrets and tokens are sealed by this machine's TPM
certificate  until 2030-06-08 12:00:00 UTC (7 days left), renewed from 2030-06-06 04:00:00 UTC on
`; out != want+disk {
		t.Errorf("says\n%s\nexpected\n%s", out, want)
	}
	if !strings.Contains(disk, " are free below "+files.data+", the database has 2.0 KiB\n") {
		t.Errorf("the disk: %s", disk)
	}
	var s gatewayStatus
	if err := json.Unmarshal([]byte(do(t, "ctl", "status", "--config", files.config, "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	if !s.Running || s.Outbox == nil || len(*s.Outbox) != 2 || s.Pods == nil || s.Pods.Running != 1 || s.Devices != 3 || s.Disk == nil || s.Disk.Database != 2048 || len(s.Problems) != 0 {
		t.Errorf("for programs: %+v", s)
	}
}

func TestStatusOfANodeWithNothingToSay(t *testing.T) {
	files, _ := atGateway(t, strings.Replace(allWell, `"store":{}`, `"outbox":[],"store":{}`, 1), func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusServiceUnavailable)
		answerWith(t, w, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: 503, Message: "pods are not synced with the cloud yet"})
	})
	out := do(t, "ctl", "status", "--config", files.config)
	for _, want := range []string{"link         up over quic to 10.0.0.1:10001 since", "outbox       empty: nothing waits for the cloud\n", "PROBLEM      pods: pods are not synced with the cloud yet\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("expected %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "pods   ") || strings.Contains(out, "devices") || strings.Contains(out, "trying") {
		t.Errorf("it tells what it does not know:\n%s", out)
	}
}

// Without edgecore there is what the machine itself shows, and the exit code.
func TestStatusWithoutEdgecore(t *testing.T) {
	files, cfg := atGateway(t, allWell, nil)
	runtime, endpoint := onePod(t)
	runtime.pods = append(runtime.pods, &runtimeapi.PodSandbox{Id: "over", Labels: map[string]string{podLabel: "u"}, State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY})
	cfg.Metrics.BindAddress, cfg.Kubelet.ContainerRuntimeEndpoint = freePort(t), endpoint
	writeEdgeConfig(t, files, cfg)
	code, out, errOut := call(t, today, "ctl", "status", "--config", files.config)
	for _, want := range []string{"edgecore     does not run\n", "pods         1 are up in the container runtime\n", "certificate  until ", "disk         ", "PROBLEM      edgecore does not answer", "start it: "} {
		if !strings.Contains(out, want) {
			t.Errorf("expected %q in\n%s", want, out)
		}
	}
	if code != 1 || !strings.Contains(errOut, "keadm debug diagnose edge") || strings.Contains(out, "link ") || strings.Contains(out, "outbox") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	code, out, _ = call(t, today, "ctl", "status", "--config", files.config, "-o", "json")
	var s gatewayStatus
	if err := json.Unmarshal([]byte(out), &s); err != nil || code != 1 || s.Running || s.Link != nil || s.Outbox != nil || len(s.Problems) != 1 {
		t.Errorf("for programs: exit %d, %v\n%s", code, err, out)
	}
}

func TestCtlOfAMachineThatHasNotJoined(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none.yaml")
	for _, args := range [][]string{{"status"}, {"get", "pods"}, {"logs", "web"}, {"restart", "web"}, {"top", "node"}} {
		if code, out, errOut := call(t, today, append(append([]string{"ctl"}, args...), "--config", none)...); code != 1 || !strings.Contains(errOut, "this machine has not joined") {
			t.Errorf("%q: exit %d\n%s%s", args, code, out, errOut)
		}
	}
}

func TestCtlSaysThatEdgecoreIsSilent(t *testing.T) {
	files, cfg := atGateway(t, allWell, nil)
	put(t, files.data, "admin.kubeconfig", strings.Replace(string(read(t, localKubeconfig(cfg.DataDir))), cfg.API.BindAddress, freePort(t), 1))
	for _, args := range [][]string{{"get", "pods"}, {"describe", "node"}, {"logs", "web"}, {"exec", "web", "--", "sh"}, {"top", "pods"}} {
		at := max(slices.Index(args, "--"), 0)
		if at == 0 {
			at = len(args)
		}
		code, out, errOut := call(t, today, slices.Concat([]string{"ctl"}, args[:at], []string{"--config", files.config}, args[at:])...)
		if code != 1 || !strings.Contains(errOut, "edgecore does not answer at ") || !strings.Contains(errOut, "keadm debug diagnose edge") {
			t.Errorf("%q: exit %d\n%s%s", args, code, out, errOut)
		}
	}
	if err := os.Remove(localKubeconfig(cfg.DataDir)); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := call(t, today, "ctl", "get", "pods", "--config", files.config); code != 1 || !strings.Contains(errOut, "found none: it never ran here") {
		t.Errorf("without its kubeconfig: exit %d\n%s", code, errOut)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatRestartRefuses(t *testing.T) {
	always, never := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways,
			InitContainers: []corev1.Container{{Name: "first"}, {Name: "sidecar", RestartPolicy: &always}}, Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}}
		change(p)
		return p
	}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		only   string
		want   []string
		why    string
	}{
		"all":                {func(*corev1.Pod) {}, "", []string{"a", "b"}, ""},
		"one":                {func(*corev1.Pod) {}, "b", []string{"b"}, ""},
		"a sidecar":          {func(*corev1.Pod) {}, "sidecar", []string{"sidecar"}, ""},
		"an init container":  {func(*corev1.Pod) {}, "first", nil, "is an init container"},
		"none of it":         {func(*corev1.Pod) {}, "x", nil, "container x is not valid for pod web"},
		"a task":             {func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, "", nil, "restart policy Never"},
		"a job":              {func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }, "", nil, "restart policy OnFailure"},
		"a container's own":  {func(p *corev1.Pod) { p.Spec.Containers[1].RestartPolicy = &never }, "", nil, "container b of pod web has the restart policy Never"},
		"one beside such":    {func(p *corev1.Pod) { p.Spec.Containers[1].RestartPolicy = &never }, "a", []string{"a"}, ""},
		"one that is over":   {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, "", nil, "is over (Failed)"},
		"one that is ending": {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: today} }, "", nil, "is being ended already"},
	} {
		got, err := restartable(pod(c.change), c.only)
		if c.why == "" && (err != nil || !slices.Equal(got, c.want)) || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
			t.Errorf("%s: %v, %v; expected %v %s", name, got, err, c.want, c.why)
		}
	}
}

// TestRestartStopsAPodsContainersAndWaits: with their grace periods, those of this pod alone, and until others run in
// their place.
func TestRestartStopsAPodsContainersAndWaits(t *testing.T) {
	runtime, endpoint := onePod(t)
	for i, name := range []string{"a", "b", "a"} {
		runtime.containers[i].Metadata = &runtimeapi.ContainerMetadata{Name: name}
	}
	pod := corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}}}
	asked := 0
	files, cfg := atGateway(t, allWell, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		pod.Status.ContainerStatuses = nil
		for _, name := range []string{"a", "b"} {
			s := corev1.ContainerStatus{Name: name, ContainerID: "old", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
			switch {
			case asked == 3:
				s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "10 s"}}
			case asked == 4:
				s.ContainerID, s.Ready = "new", false
			case asked > 4:
				s.ContainerID = "new"
			}
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, s)
		}
		answerWith(t, w, pod)
	})
	cfg.Kubelet.ContainerRuntimeEndpoint = endpoint
	writeEdgeConfig(t, files, cfg)
	code, out, errOut := call(t, today, "ctl", "restart", "pod/web", "--config", files.config)
	slices.Sort(runtime.ended)
	if want := []string{"container plain within 30 s", "container slow within 90 s"}; !slices.Equal(runtime.ended, want) {
		t.Errorf("ended %q, expected %q", runtime.ended, want)
	}
	if code != 0 || !strings.Contains(out, "ready    after ") || !strings.HasSuffix(out, ": pod web\n") {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
	for _, want := range []string{"stopping a, b: they have up to 1m30s\n", "container a is not started yet\n", "container a waits: CrashLoopBackOff: 10 s\n", "container a runs and is not ready yet\n"} {
		if !strings.Contains(errOut, want) {
			t.Errorf("expected %q in\n%s", want, errOut)
		}
	}
}

// A static pod's uid at the runtime is another one than its mirror's in the API.
func TestAStaticPodIsFoundAtTheRuntime(t *testing.T) {
	runtime, endpoint := onePod(t)
	runtime.containers[0].Metadata = &runtimeapi.ContainerMetadata{Name: "a"}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "static", UID: "mirror", Annotations: map[string]string{mirrorMark: "x", staticHash: "uid"}}}
	var said bytes.Buffer
	names, longest, err := stopContainers(t.Context(), IO{Err: &said}, endpoint, pod, []string{"a"})
	if err != nil || !slices.Equal(names, []string{"a"}) || longest != 90*time.Second {
		t.Errorf("%v %v %v", names, longest, err)
	}
	pod.Annotations = nil
	if _, _, err := stopContainers(t.Context(), IO{Err: &said}, endpoint, pod, []string{"a"}); err == nil || !strings.Contains(err.Error(), "none of the containers a of pod static runs") {
		t.Errorf("of a pod that has no containers: %v", err)
	}
}

func TestNothingIsStoppedThatNobodyWouldStart(t *testing.T) {
	runtime, endpoint := onePod(t)
	pod := corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid"},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "a"}}}}
	files, cfg := atGateway(t, strings.Replace(allWell, `"state":"running"`, `"state":"delayed","reason":"no cgroups"`, 1), func(w http.ResponseWriter, _ *http.Request) { answerWith(t, w, pod) })
	cfg.Kubelet.ContainerRuntimeEndpoint = endpoint
	writeEdgeConfig(t, files, cfg)
	code, _, errOut := call(t, today, "ctl", "restart", "web", "--config", files.config)
	if code != 1 || !strings.Contains(errOut, "nothing was stopped: the kubelet, which would start the containers again, is delayed") || len(runtime.ended) != 0 {
		t.Errorf("exit %d, ended %q\n%s", code, runtime.ended, errOut)
	}
}

func TestSizesAreWrittenForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 150 << 10: "150 KiB", 5 << 20: "5.0 MiB", 252 << 30: "252 GiB", 3 << 40: "3.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d bytes are %q, expected %q", n, got, want)
		}
	}
}

// As with kubectl, one that is not there keeps no other from being shown.
func TestGetShowsThoseThatAreThere(t *testing.T) {
	files, _ := atGateway(t, allWell, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api":
			answerWith(t, w, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
		case "/apis":
			answerWith(t, w, metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}})
		case "/api/v1":
			answerWith(t, w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: "v1",
				APIResources: []metav1.APIResource{{Name: "pods", Kind: "Pod", Namespaced: true}}})
		case "/api/v1/namespaces/default/pods/real":
			_, _ = w.Write([]byte(`{"kind":"Table","apiVersion":"meta.k8s.io/v1","columnDefinitions":[{"name":"Name"}],"rows":[{"cells":["real"]}]}`))
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			status := apierrors.NewNotFound(corev1.Resource("pods"), path.Base(r.URL.Path)).Status()
			status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
			answerWith(t, w, status)
		}
	})
	for _, c := range []struct{ names, out, errOut string }{
		{"nope real", "NAME\nreal\n", "Error from server (NotFound): pods \"nope\" not found\n"},
		{"nope none", "", "Error from server (NotFound): pods \"nope\" not found\nError from server (NotFound): pods \"none\" not found\n"},
	} {
		code, out, errOut := call(t, today, append([]string{"ctl", "get", "--config", files.config, "pods"}, strings.Fields(c.names)...)...)
		if code != 1 || out != c.out || errOut != c.errOut {
			t.Errorf("%s: exit %d\n%s%s", c.names, code, out, errOut)
		}
	}
}
