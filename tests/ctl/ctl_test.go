package ctl

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tether-edge/tether/common/object"
)

// kubelet repeats what it was asked for, line by line, and measures three pods.
func kubelet(w http.ResponseWriter, req *http.Request) {
	switch {
	case req.URL.Path == "/stats/summary":
		_, _ = io.WriteString(w, summary)
	case strings.HasSuffix(req.URL.Path, "/late"):
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `container "late" in pod "web" is waiting to start: ContainerCreating`)
	case strings.HasPrefix(req.URL.Path, "/containerLogs/"):
		fmt.Fprintf(w, "%s asks %s\nand more", req.URL.Path, req.URL.RawQuery)
		if !strings.Contains(req.URL.Path, "/cart/") { // whose last line has no end
			fmt.Fprintln(w)
		}
	default:
		http.NotFound(w, req)
	}
}

const summary = `{"node":{"nodeName":"edge-1","cpu":{"time":"2030-01-01T00:00:00Z","usageNanoCores":250000000},"memory":{"time":"2030-01-01T00:00:00Z","workingSetBytes":104857600}},
"pods":[{"podRef":{"name":"web","namespace":"default"},"containers":[
  {"name":"demo","cpu":{"time":"2030-01-01T00:00:00Z","usageNanoCores":1500000},"memory":{"workingSetBytes":5242880}},
  {"name":"listener","cpu":{"usageNanoCores":3000000},"memory":{"workingSetBytes":2097152}}]},
{"podRef":{"name":"api","namespace":"default"},"containers":[{"name":"demo","cpu":{"usageNanoCores":250000000},"memory":{"workingSetBytes":1048576}}]},
{"podRef":{"name":"cart","namespace":"shop"},"containers":[{"name":"demo","cpu":{"usageNanoCores":7000000},"memory":{"workingSetBytes":9437184}}]}]}`

func meta(space, name string, age time.Duration, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: space, Name: name, UID: types.UID("uid-" + name), Labels: labels,
		CreationTimestamp: metav1.NewTime(time.Now().Add(-age).Truncate(time.Second))}
}

func pod(space, name string, age time.Duration, cpu, app string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta(space, name, age, map[string]string{"app": app, "example.com/tier": "t-" + name}),
		Spec:   corev1.PodSpec{NodeName: nodeName, RestartPolicy: corev1.RestartPolicyAlways},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"}}
	for i, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Image: "demo:" + fmt.Sprint(i),
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: c, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	}
	return p
}

// fill gives the gateway a small site.
func (g *gateway) fill() {
	g.t.Helper()
	web := pod("default", "web", 3*time.Hour, "250m", "web", "demo", "listener", "late")
	web.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "demo:1"}}
	once := pod("default", "once", 2*time.Hour, "2", "task", "demo")
	once.Status.Phase, once.Spec.RestartPolicy = corev1.PodSucceeded, corev1.RestartPolicyNever
	odd := pod("default", "odd", time.Hour, "1", "odd", "demo")
	odd.Status.Reason = "bad\x1b[2J\nand more" // what would move a terminal
	odd.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	for _, p := range []*corev1.Pod{web, once, odd, pod("default", "api", 4*time.Hour, "1500m", "api", "demo"), pod("shop", "cart", 30*time.Minute, "1", "web", "demo")} {
		g.receive(object.Pods, p)
	}
	g.receive(object.ConfigMaps, &corev1.ConfigMap{ObjectMeta: meta("default", "settings", time.Hour, nil), Data: map[string]string{"a": "1", "b": "2"}})
	g.receive(object.Services, &corev1.Service{ObjectMeta: meta("default", "front", time.Hour, nil), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	g.receive(object.Nodes, &corev1.Node{ObjectMeta: meta("", nodeName, 9*time.Hour, map[string]string{"site": "north"}), Status: corev1.NodeStatus{
		Capacity:    corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")},
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("512Mi")}}})
}

// A row is a command line for both. want is a part of what keadm says. differs says why that is not what kubectl says, on
// purpose; then code is keadm's.
type row struct {
	line    string
	want    string
	differs string
	code    int
	// unordered: stock kubectl shows several logs in no order.
	unordered bool
	// silent: neither says anything.
	silent bool
}

const usageError = "a command line that keadm does not understand has exit code 2"

var rows = []row{
	{line: "get pods"},
	{line: "get po -A"},
	{line: "get Pod -A -o wide"},
	{line: "get pods --show-labels"},
	{line: "get pods -L app,example.com/tier -L none"},
	{line: "get pods -A -o wide -L app --show-labels"},
	{line: "get pods --no-headers"},
	{line: "get pods,nodes --no-headers"},
	{line: "get pods --show-kind"},
	{line: "get pods -l app=web"},
	{line: "get pods -l app=none"},
	{line: "get pods -A -l app=none"},
	{line: "get nodes -l site=south"},
	{line: "get pods,nodes -l site=south"},
	{line: "get pods --field-selector status.phase=Succeeded"},
	{line: "get pods,cm"},
	{line: "get nodes,secrets,pods -A"},
	{line: "get pods,nodes -A", differs: "kubectl's nodes have a column for the namespace where something with namespaces came before", want: "\nNAME "},
	{line: "get all", want: "service/front"},
	{line: "get all -A -l app=web"},
	{line: "get all web", differs: usageError, code: 2, want: "a name goes with one kind"},
	{line: "get all/web", differs: usageError, code: 2, want: "a name goes with one kind"},
	{line: "get pods.v1."},
	{line: "get leases.v1.coordination.k8s.io"},
	{line: "get leases.coordination.k8s.io -A -o name", silent: true},
	{line: "get pod/web cm/settings"},
	{line: "get pods web once"},
	{line: "get pod,pods"},
	{line: "get pod web pod/once", differs: usageError, code: 2, want: "there is no need to give a kind of its own before KIND/NAME"},
	{line: "get pods/web,cm/settings", differs: usageError, code: 2, want: "may not have more than one slash"},
	{line: "get pods nope web"},
	{line: "get pods nope none"},
	{line: "get pod/nope cm/settings pod/none"},
	{line: "get pods nope --ignore-not-found", silent: true},
	{line: "get pods nope web --ignore-not-found"},
	{line: "get pods nope --ignore-not-found -o json", silent: true},
	{line: "get pods nope -o json"},
	{line: "get pods nope none -o yaml"},
	{line: "get pods nope web -o name"},
	{line: "get deployments", differs: "it says what this node holds", code: 1, want: `the server doesn't have a resource type "deployments"`},
	{line: "get pods -l =a", differs: "kubectl repeats what was asked for", code: 1, want: "Error from server (BadRequest): found '='"},
	{line: "get pods --field-selector spec.colour=red", differs: "kubectl repeats what was asked for", code: 1, want: "Error from server (BadRequest): field label not supported: spec.colour"},
	{line: "get pods -n nowhere"},

	{line: "get pods -o json"},
	{line: "get pods web -o json"},
	{line: "get pods -A -o yaml"},
	{line: "get pods web --show-managed-fields -o yaml"},
	{line: "get pods web -o kyaml"},
	{line: "get pods,cm -o kyaml"},
	{line: "get pods,nodes,cm -o name"},
	{line: "get pods -l app=none -o json"},
	{line: "get pods -l app=none -o name", silent: true},
	{line: "get pod/web cm/settings -o json"},
	{line: "get pods -o jsonpath={.items[*].metadata.name}"},
	{line: `get pods -o jsonpath={range.items[*]}{.metadata.name}{"\t"}{.spec.containers[*].image}{"\n"}{end}`},
	{line: "get pods web -o jsonpath={.status.podIP}"},
	{line: "get pods web -o jsonpath={.status.none}", silent: true},
	{line: "get pods web -o jsonpath={.status.none} --allow-missing-template-keys=false", differs: "kubectl shows the whole object with its error", code: 1,
		want: "keadm: error executing jsonpath \"{.status.none}\": none is not found\n"},
	{line: "get pods web -o jsonpath-as-json={.spec.containers[*].name}"},
	{line: "get pods -o jsonpath-file=DIR/path"},
	{line: "get pods -o jsonpath={.items[?(@.status.phase=='Running')].metadata.name}"},
	{line: "get pods -o custom-columns=NAME:.metadata.name,IMAGES:{.spec.containers[*].image},WHY:status.reason"},
	{line: "get pods web -o custom-columns=NAME:metadata.name,NONE:.status.none"},
	{line: "get pods -A -o custom-columns=N:.metadata.name --no-headers"},
	{line: "get pods,cm -o custom-columns=KIND:.kind,NAME:.metadata.name"},
	{line: "get pods -o custom-columns-file=DIR/columns"},
	{line: "get pods -o custom-columns-file=DIR/columns --no-headers"},
	{line: "get pods -l app=none -o custom-columns=NAME:.metadata.name"},

	{line: "get pods --sort-by .metadata.name"},
	{line: "get pods --sort-by {.metadata.creationTimestamp}"},
	{line: "get pods -A --sort-by metadata.creationTimestamp"},
	{line: "get pods --sort-by .spec.containers[0].resources.requests.cpu"},
	{line: "get pods --sort-by .spec.containers[0].resources.requests.cpu -o name"},
	{line: "get pods --sort-by .metadata.creationTimestamp -o custom-columns=N:.metadata.name"},
	{line: "get pods,cm --sort-by .metadata.creationTimestamp", differs: "kubectl looks for the field in the tables, and fails", want: "configmap/settings"},
	{line: "get pods --sort-by .metadata.none", differs: "kubectl drops its error and says that there are no pods", code: 1, want: `couldn't find any field with path "{.metadata.none}" in the list of objects`},
	{line: "get pods --sort-by .metadata.none -o name"},
	{line: "get pods --sort-by .metadata.labels", differs: "kubectl's has the place in its sources, and its own time", code: 1, want: "--sort-by: .metadata.labels: expected numbers or texts to sort by, found map"},

	{line: "get --raw /version"},
	{line: "get --raw /nowhere"},
	{line: "get --raw healthz", differs: usageError, code: 2, want: "expected a path that begins with /"},

	{line: "get pods -o toml", differs: usageError, code: 2, want: "expected one of wide, name, json"},
	{line: "get pods -o json=x", differs: usageError, code: 2, want: `found "json=x"`},
	{line: "get pods -o jsonpath", differs: usageError, code: 2, want: "expected jsonpath=..., found nothing behind it"},
	{line: "get pods -o jsonpath={.a", differs: usageError, code: 2, want: "error parsing jsonpath {.a, unclosed action"},
	{line: "get pods -o jsonpath-file=DIR/none", differs: "the words for a file that is not there are Go's", code: 1, want: "no such file"},
	{line: "get pods -o custom-columns=NAME", differs: usageError, code: 2, want: "unexpected custom-columns spec: NAME, expected <header>:<json-path-expr>"},
	{line: "get pods -o custom-columns=NAME:{.a", differs: usageError, code: 2, want: "unexpected path string"},
	{line: "get pods -o custom-columns-file=DIR/path", differs: usageError, code: 2, want: "expected a line of headers and a line of column specs"},
	{line: "get pods -o custom-columns-file=DIR/uneven", differs: usageError, code: 2, want: "number of headers (2) and field specifications (1) don't match"},
	{line: "get pods --sort-by {a}{b}", differs: usageError, code: 2, want: "--sort-by: unexpected path string"},
	{line: "get pods -o json --show-labels", differs: usageError, code: 2, want: "--show-labels option cannot be used with json printer"},
	{line: "get pods --output-watch-events", differs: usageError, code: 2, want: "--output-watch-events option can only be used with --watch or --watch-only"},
	{line: "get pods web -A", differs: usageError, code: 2, want: "a resource cannot be retrieved by name across all namespaces"},
	{line: "get pods web -l app=web", differs: usageError, code: 2, want: "name cannot be provided when a selector is specified"},
	{line: "get pods,cm web", differs: usageError, code: 2, want: "a name goes with one kind"},
	{line: "get pods,cm -w", differs: usageError, code: 2, want: "--watch: expected one kind, found 2"},
	{line: "get pods -o go-template={{.kind}}", differs: "go-template would make keadm 18 MB larger; jsonpath says the same", code: 2, want: "expected one of wide"},
	{line: "get pods nope -w"},
	{line: "get pods nope -w --ignore-not-found", silent: true},

	{line: "logs web -c demo"},
	{line: "logs web"},
	{line: "logs api"},
	{line: "logs pod/web listener"},
	{line: "logs web -c first"},
	{line: "logs web -c nope"},
	{line: "logs nope"},
	{line: "logs web -c late"},
	{line: "logs web -c late --ignore-errors"},
	{line: "logs cart -n shop --tail=7 --since=90s --timestamps -p --limit-bytes=100"},
	{line: "logs api --tail=0"},
	{line: "logs api --since-time=2030-01-01T00:00:00Z"},
	{line: "logs api -f"},
	{line: "logs api --prefix"},
	{line: "logs -l app=api"},
	{line: "logs -l app=api --tail=-1 --prefix"},
	{line: "logs -l app=web --all-containers --prefix --ignore-errors", unordered: true},
	{line: "logs -l app,app!=web,app!=odd -f --prefix", unordered: true},
	{line: "logs web --all-containers -f --max-log-requests 3"},
	{line: "logs -l app=none"},
	{line: "logs -l app", unordered: true},
	{line: "logs api -l app=api", differs: usageError, code: 2, want: "only a selector (-l) or a POD name is allowed"},
	{line: "logs api demo -c demo", differs: usageError, code: 2, want: "only one of -c or an inline [CONTAINER] arg is allowed"},
	{line: "logs api --since=1s --since-time=2030-01-01T00:00:00Z", differs: usageError, code: 2, want: "at most one of"},
	{line: "logs api --since-time=soon", differs: usageError, code: 2, want: "--since-time: expected a time"},
	{line: "logs api --since=-1s", differs: usageError, code: 2, want: "--since must be greater than 0"},
	{line: "logs api --tail=-2", differs: usageError, code: 2, want: "--tail must be greater than or equal to -1"},
	{line: "logs api --limit-bytes=-2", differs: usageError, code: 2, want: "--limit-bytes must be greater than 0"},
	{line: "logs web --all-containers -c demo", differs: usageError, code: 2, want: "--all-containers=true should not be specified with container name demo"},
	{line: "logs deploy/web", differs: "this node knows no deployments", code: 2, want: `expected the name of a pod, found "deploy/web"`},

	{line: "exec nope -- sh"},
	{line: "exec once -- sh"},
	{line: "exec web -c nope -- sh"},
	{line: "exec api -t -- sh"},
	{line: "exec api -it -- sh"},
	{line: "exec web -itq -- sh"},
	{line: "exec web sh", differs: usageError, code: 2, want: "expected a pod, -- and the command"},

	{line: "top pods"},
	{line: "top pod -A"},
	{line: "top po web"},
	{line: "top pods nope"},
	{line: "top pods once"},
	{line: "top pods -l app=web"},
	{line: "top pods -l app=none"},
	{line: "top pods -A -l app=none"},
	{line: "top pods -l =a", differs: "kubectl reads the selector itself", code: 1, want: "Error from server (BadRequest): found '='"},
	{line: "top pods --field-selector metadata.name=api"},
	{line: "top pods --field-selector metadata.name=none", want: "No resources found in default namespace."},
	{line: "top pods --field-selector metadata.name=once", differs: "it says when there will be some", code: 1, want: "metrics not available yet: the kubelet"},
	{line: "top pods --field-selector spec.colour=red", want: "field label not supported: spec.colour"},
	{line: "top pods -A --sort-by cpu"},
	{line: "top pods -A --sort-by memory --no-headers"},
	{line: "top pods -A --containers"},
	{line: "top pods web --containers --sort-by cpu"},
	{line: "top pods --sum"},
	{line: "top pods -A --containers --sum"},
	{line: "top node"},
	{line: "top nodes edge-1 --no-headers"},
	{line: "top node --show-capacity --sort-by cpu"},
	{line: "top node -l site=north"},
	{line: "top node -l site=south", differs: "it says when there will be some", code: 1, want: "metrics not available yet: the kubelet"},
	{line: "top node nope"},
	{line: "top pods --sort-by disk", differs: usageError, code: 2, want: "--sort-by accepts only cpu or memory"},
	{line: "top pods web -l app=web", differs: usageError, code: 2, want: "only one of NAME or selector can be provided"},
	{line: "top pods web -A", differs: usageError, code: 2, want: "a pod's name goes with one namespace"},
}

var (
	// ages are what two calls one after the other may show differently, with the blanks beside them.
	ages = regexp.MustCompile(` +([0-9]+[smhd])+ *| +`)
	// speaker is how each program begins what it says itself.
	speaker = regexp.MustCompile(`(?m)^(error|keadm): `)
)

// plain is what can be compared.
func (s said) plain(unordered bool) said {
	out := ages.ReplaceAllString(s.out, " ")
	if unordered {
		lines := strings.SplitAfter(out, "\n")
		slices.Sort(lines)
		out = strings.Join(lines, "")
	}
	return said{s.code, out, speaker.ReplaceAllString(s.err, "")}
}

func TestKeadmCtlSaysWhatKubectlSays(t *testing.T) {
	g := startGateway(t, kubelet)
	g.fill()
	for name, text := range map[string]string{
		"path": `{.items[0].metadata.name}`, "columns": "NAME  PHASE\nmetadata.name  {.status.phase}\n", "uneven": "A B\n.a\n",
	} {
		if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	deliberate := 0
	for _, r := range rows {
		args := strings.Fields(strings.ReplaceAll(r.line, "DIR", g.dir))
		ours, stock := g.both(args...)
		same := ours.plain(r.unordered) == stock.plain(r.unordered)
		switch all := ours.out + ours.err; {
		case r.differs == "" && (!same || (all == "") != r.silent):
			t.Errorf("%s\nkeadm: %d\n%s%s\nkubectl: %d\n%s%s", r.line, ours.code, ours.out, ours.err, stock.code, stock.out, stock.err)
		case !strings.Contains(all, r.want) || r.differs != "" && ours.code != r.code:
			t.Errorf("%s: %d, expected %d and %q\n%s", r.line, ours.code, r.code, r.want, all)
		case r.differs != "" && same:
			t.Errorf("%s: the same as with kubectl, expected a difference: %s", r.line, r.differs)
		}
		if r.differs != "" {
			deliberate++
		}
	}
	t.Logf("%d command lines, of which %d differ deliberately", len(rows), deliberate)
}
