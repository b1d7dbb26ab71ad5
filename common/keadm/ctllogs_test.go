package keadm

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// notYet is what the API says of a container that waits to start.
func notYet(t *testing.T, w http.ResponseWriter, why string) {
	t.Helper()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	answerWith(t, w, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: 400,
		Reason: metav1.StatusReasonBadRequest, Message: why})
}

// podOf has containers of those names.
func podOf(name string, containers ...string) corev1.Pod {
	p := corev1.Pod{TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c})
	}
	return p
}

// A container that is restarted has no log for a moment: who follows it is told, and waits.
func TestLogsOfAContainerThatIsLateAreWaitedFor(t *testing.T) {
	asked := 0
	files, _ := atGateway(t, allWell, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasSuffix(r.URL.Path, "/log"):
			answerWith(t, w, podOf("web", "a"))
		case asked == 0:
			asked++
			notYet(t, w, "container a is waiting to start")
		default:
			_, _ = w.Write([]byte("a line\n"))
		}
	})
	if code, out, errOut := call(t, today, "ctl", "logs", "-f", "web", "--config", files.config); code != 0 || out != "a line\n" || errOut != "container a is waiting to start\n" {
		t.Errorf("followed: exit %d\n%s%s", code, out, errOut)
	}
	for _, args := range [][]string{{"-f", "--pod-running-timeout", "0"}, {}} {
		asked = 0
		code, out, errOut := call(t, today, append([]string{"ctl", "logs", "web", "--config", files.config}, args...)...)
		if code != 1 || out != "" || errOut != "Error from server (BadRequest): container a is waiting to start\n" {
			t.Errorf("%q: exit %d\n%s%s", args, code, out, errOut)
		}
	}
}

// Several logs are one after the other in the pod's order; those that are followed come as they are written, whole line by
// whole line, and more than a few of them are refused.
func TestLogsOfSeveralContainers(t *testing.T) {
	const lines = 200
	var together sync.WaitGroup
	files, _ := atGateway(t, allWell, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/log") {
			answerWith(t, w, podOf("web", "b", "a"))
			return
		}
		if r.URL.Query().Get("follow") != "" {
			together.Done()
			together.Wait() // one alone would never end
		}
		for i := range lines {
			fmt.Fprintf(w, "%s-%s-%d\n", r.URL.Query().Get("container"), strings.Repeat("x", i), i)
			w.(http.Flusher).Flush()
		}
	})
	check := func(out string, inOrder bool) {
		t.Helper()
		seen := map[string]int{}
		for line := range strings.Lines(out) {
			name := line[len("[pod/web/"):][:1]
			if want := fmt.Sprintf("[pod/web/%s] %s-%s-%d\n", name, name, strings.Repeat("x", seen[name]), seen[name]); line != want {
				t.Fatalf("line %q, expected %q", line, want)
			}
			if seen[name]++; inOrder && name == "a" && seen["b"] < lines {
				t.Fatal("container a's log comes before the end of b's")
			}
		}
		if seen["a"] != lines || seen["b"] != lines {
			t.Errorf("lines: %v", seen)
		}
	}
	check(do(t, "ctl", "logs", "web", "--all-containers", "--prefix", "--config", files.config), true)
	together.Add(2)
	check(do(t, "ctl", "logs", "-f", "web", "--all-containers", "--prefix", "--config", files.config), false)
	code, _, errOut := call(t, today, "ctl", "logs", "-f", "web", "--all-containers", "--max-log-requests", "1", "--config", files.config)
	if code != 1 || !strings.Contains(errOut, "attempting to follow 2 log streams") {
		t.Errorf("one at once: exit %d, %s", code, errOut)
	}
}

// An error of one log that is followed ends the others too, and is what keadm says.
func TestTheFirstErrorEndsThoseThatAreFollowed(t *testing.T) {
	files, _ := atGateway(t, allWell, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasSuffix(r.URL.Path, "/log"):
			answerWith(t, w, podOf("web", "a", "b"))
		case r.URL.Query().Get("container") == "b":
			notYet(t, w, "container b is waiting to start")
		default:
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	})
	args := []string{"ctl", "logs", "-f", "web", "--all-containers", "--config", files.config, "--pod-running-timeout", "0"}
	if code, _, errOut := call(t, today, args...); code != 1 || errOut != "Error from server (BadRequest): container b is waiting to start\n" {
		t.Errorf("exit %d, %s", code, errOut)
	}
}
