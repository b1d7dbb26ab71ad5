package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func TestControlPlaneServesMachineAndEdgeHostAndKeepsItsPorts(t *testing.T) {
	program, err := Program(t.Context(), "controlplane")
	if err != nil {
		t.Fatal(err)
	}
	h := bootForTest(t, EdgeConfig{})
	cp, err := h.cluster.StartControlPlane(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	config, err := cp.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	list := func() error {
		_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		return err
	}
	if err := list(); err != nil {
		t.Error(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.CAData)
	web := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: h.DialContext, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	fromEdge := func() error {
		response, err := web.Get(cp.Server + "/healthz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("expected status 200, found %s", response.Status)
		}
		return nil
	}
	if err := fromEdge(); err != nil {
		t.Errorf("expected the edge host to reach %s: %v", cp.Server, err)
	}
	if err := cp.SignalComponent("kube-nothing", syscall.SIGCONT); err == nil || !strings.Contains(err.Error(), "expected it among the 4 processes") {
		t.Errorf("a signal to a component that there is none of: %v", err)
	}
	stopped := func(want bool) {
		t.Helper()
		processes, err := children(cp.PID())
		if err != nil {
			t.Fatal(err)
		}
		Eventually(t, 10*time.Second, "the state of the controllers", func() error {
			var found []string
			for _, p := range processes {
				text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
				if err != nil {
					return err
				}
				if strings.Contains(string(text), "T (stopped)") {
					command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.PID))
					if err != nil {
						return err
					}
					found = append(found, strings.Split(string(command), "\x00")[2])
				}
			}
			if got := slices.Equal(found, []string{"kube-controller-manager"}); got != want || !want && len(found) > 0 {
				return fmt.Errorf("%q are stopped", found)
			}
			return nil
		})
	}
	if err := cp.SignalComponent("kube-controller-manager", syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped(true)
	if err := cp.SignalComponent("kube-controller-manager", syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	stopped(false)
	if err := cp.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cp.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := cp.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := h.cluster.ControlPlane(); again == nil || again.Server != cp.Server || again.Kubeconfig != cp.Kubeconfig {
		t.Errorf("expected the same control plane, found %+v", again)
	}
	Eventually(t, 10*time.Second, "the machine to reach the restarted API server", list)
	Eventually(t, 10*time.Second, "the edge host to reach the restarted API server", fromEdge)
}
