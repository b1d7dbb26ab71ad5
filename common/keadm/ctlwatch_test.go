package keadm

import (
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watched is an API with one pod, or none, and a watch that says these events and ends. It returns keadm's configuration.
func watched(t *testing.T, there bool, events string) string {
	t.Helper()
	const row = `{"cells":["web","%s"],"object":{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"web"}}}`
	const list = `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"7"},"columnDefinitions":[{"name":"Name","type":"string","format":"name"},{"name":"Status","type":"string"}],"rows":[%s]}`
	files, _ := atGateway(t, allWell, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case r.URL.Path == "/api":
			answerWith(t, w, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}})
		case r.URL.Path == "/apis":
			answerWith(t, w, metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}})
		case r.URL.Path == "/api/v1":
			answerWith(t, w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList"}, GroupVersion: "v1",
				APIResources: []metav1.APIResource{{Name: "pods", Kind: "Pod", Namespaced: true}}})
		case r.URL.Path == "/api/v1/namespaces/default/pods" && q.Get("watch") != "":
			if q.Get("resourceVersion") != "7" {
				t.Errorf("watched from version %q, expected the list's", q.Get("resourceVersion"))
			}
			fmt.Fprint(w, events)
		case r.URL.Path == "/api/v1/namespaces/default/pods":
			if f := q.Get("fieldSelector"); f != "metadata.name=web" {
				t.Errorf("listed with the field selector %q", f)
			}
			rows := ""
			if there {
				rows = fmt.Sprintf(row, "old")
			}
			fmt.Fprintf(w, list, rows)
		default:
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			status := apierrors.NewNotFound(corev1.Resource("pods"), "web").Status()
			status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
			answerWith(t, w, status)
		}
	})
	return files.config
}

// Of one object every change is shown, from the list on: kubectl's own watch of one begins somewhat later.
func TestAWatchOfOneObject(t *testing.T) {
	const change = `{"type":"MODIFIED","object":{"kind":"Table","apiVersion":"meta.k8s.io/v1","rows":[{"cells":["web","%s"]}]}}` + "\n"
	config := watched(t, true, fmt.Sprintf(change, "new")+fmt.Sprintf(change, "newer"))
	for flag, want := range map[string]string{
		"-w":           "NAME   STATUS\nweb    old\nweb    new\nweb    newer\n",
		"--watch-only": "NAME   STATUS\nweb    new\nweb    newer\n",
	} {
		if out := do(t, "ctl", "get", "pods", "web", flag, "--config", config); out != want {
			t.Errorf("%s:\n%s\nexpected\n%s", flag, out, want)
		}
	}
	code, out, errOut := call(t, today, "ctl", "get", "pods", "web", "-w", "--config", watched(t, false, ""))
	if code != 1 || out != "" || errOut != "Error from server (NotFound): pods \"web\" not found\n" {
		t.Errorf("of none: exit %d\n%s%s", code, out, errOut)
	}
	gone := watched(t, true, `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired","message":"too old"}}`)
	code, _, errOut = call(t, today, "ctl", "get", "pods", "web", "-w", "--config", gone)
	if code != 1 || errOut != "Error from server (Expired): too old\n" {
		t.Errorf("one that the API ends: exit %d\n%s", code, errOut)
	}
}
