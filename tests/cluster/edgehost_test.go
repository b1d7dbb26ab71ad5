package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/tether-edge/tether/build/images"
)

// bootForTest makes a cluster with one edge host that has the images.
func bootForTest(t *testing.T, cfg EdgeConfig) *EdgeHost {
	t.Helper()
	c := ForTest(t)
	archives, err := Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Name, cfg.Images = "edge", archives
	h, err := c.NewEdgeHost(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// answer is what the demo image says at its root page.
type answer struct {
	Hostname string    `json:"hostname"`
	IPs      []string  `json:"ips"`
	Started  time.Time `json:"started"`
	Requests int       `json:"requests"`
}

// ask waits for the demo image's answer at a pod's address.
func ask(t *testing.T, h *EdgeHost, ip string) answer {
	t.Helper()
	var a answer
	Eventually(t, 20*time.Second, "an answer of the demo at "+ip, func() error {
		body, err := h.Get(t.Context(), "http://"+net.JoinHostPort(ip, "8080")+"/")
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(body), &a)
	})
	return a
}

// runDemo starts the demo image through the CRI and returns its ids and address.
func runDemo(t *testing.T, h *EdgeHost, name string) (containerID, ip string) {
	t.Helper()
	cri, err := h.CRI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	sandbox, container, err := cri.RunContainer(t.Context(), name, images.Demo)
	if err != nil {
		t.Fatal(err)
	}
	if ip, err = cri.PodIP(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	return container, ip
}

// datagramArrives sends from the edge to the machine, which needs no answer to arrive: it shows the one direction alone.
func datagramArrives(t *testing.T, h *EdgeHost) bool {
	t.Helper()
	server, err := net.ListenPacket("udp", net.JoinHostPort(h.RootAddress(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := h.DialContext(t.Context(), "udp", server.LocalAddr().String())
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		return false
	}
	if err := server.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _, err = server.ReadFrom(make([]byte, 1))
	return err == nil
}

func TestEdgeHostRunsAContainerThroughCutsAndARestartedRuntime(t *testing.T) {
	h := bootForTest(t, EdgeConfig{})
	id, ip := runDemo(t, h, "demo")
	first := ask(t, h, ip)
	if first.Hostname != "demo" || len(first.IPs) != 1 || first.IPs[0] != ip {
		t.Fatalf("expected the demo to be host demo with the one address %s, found %+v", ip, first)
	}

	listener, err := net.Listen("tcp", net.JoinHostPort(h.RootAddress(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	reach := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		conn, err := h.DialContext(ctx, "tcp", listener.Addr().String())
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	if err := reach(); err != nil {
		t.Fatalf("expected the edge to reach the machine: %v", err)
	}
	if !datagramArrives(t, h) {
		t.Fatal("expected a datagram of the edge to arrive")
	}
	cuts := map[string]func() error{"Cut": h.Cut, "Drop": func() error { return h.Drop(t.Context()) }}
	for name, cut := range cuts {
		if err := errors.Join(cut(), cut()); err != nil {
			t.Fatal(err)
		}
		if is, err := h.IsCut(t.Context()); err != nil || !is {
			t.Errorf("after %s expected IsCut, found %t, %v", name, is, err)
		}
		if err := reach(); err == nil {
			t.Errorf("after %s the edge still reaches the machine", name)
		}
		if datagramArrives(t, h) {
			t.Errorf("after %s a datagram of the edge still arrives", name)
		}
		ask(t, h, ip) // the pod is on the edge's own side
		if err := errors.Join(h.Heal(t.Context()), h.Heal(t.Context())); err != nil {
			t.Fatal(err)
		}
		Eventually(t, 10*time.Second, "the edge to reach the machine after "+name+" and Heal", reach)
	}

	if err := h.Containerd().Kill(); err != nil {
		t.Fatal(err)
	}
	if again := ask(t, h, ip); !again.Started.Equal(first.Started) {
		t.Errorf("expected the container to outlive containerd, found it started again at %s", again.Started)
	}
	if err := h.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	cri, err := h.CRI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	found, err := cri.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].ID != id || !found[0].Running || found[0].Pod != "demo" {
		t.Errorf("expected the restarted containerd to know the one running container %s, found %+v", id, found)
	}
	if n := h.Containerd().Restarts(); n != 1 {
		t.Errorf("expected containerd to count one restart, found %d", n)
	}
}

func TestAnEdgeHostSeesItsOwnFilesAndTheMachineDoesNot(t *testing.T) {
	h := bootForTest(t, EdgeConfig{})
	if err := os.WriteFile(h.Path("/var/lib/kubelet/mark"), []byte("ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := h.Run(t.Context(), "cat", "/var/lib/kubelet/mark")
	if err != nil || out != "ours" {
		t.Errorf("expected the edge host to see its own /var/lib/kubelet, found %q, %v", out, err)
	}
	if _, err := os.Stat("/var/lib/kubelet/mark"); err == nil {
		t.Error("the machine sees the edge host's /var/lib/kubelet")
	}
}

func TestPowerCutAndBootKeepTheDisk(t *testing.T) {
	h := bootForTest(t, EdgeConfig{})
	_, ip := runDemo(t, h, "before")
	ask(t, h, ip)
	if err := h.PowerCut(); err != nil {
		t.Fatal(err)
	}
	pids, err := members(h.cluster.machine.Hierarchies, h.Cgroup())
	if err != nil || len(pids) > 0 {
		t.Fatalf("expected no process after a power cut, found %v, %v", pids, err)
	}
	if err := h.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The images are on the disk: nothing is imported again.
	cri, err := h.CRI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cri.Close()
	found, err := cri.Containers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range found {
		if c.Running {
			t.Errorf("expected no container to run after a power cut, found %+v", c)
		}
	}
	_, ip = runDemo(t, h, "after")
	ask(t, h, ip)
}

func TestTwoEdgeHostsDoNotDisturbEachOther(t *testing.T) {
	h := bootForTest(t, EdgeConfig{})
	archives, err := Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.cluster.NewEdgeHost(t.Context(), EdgeConfig{Name: "other", Images: archives})
	if err != nil {
		t.Fatal(err)
	}
	_, ip := runDemo(t, h, "demo")
	_, otherIP := runDemo(t, other, "demo")
	ask(t, h, ip)
	ask(t, other, otherIP)
	if err := other.PowerCut(); err != nil {
		t.Fatal(err)
	}
	if a := ask(t, h, ip); a.Hostname != "demo" {
		t.Error(fmt.Sprint("expected the first host's pod to go on, found ", a))
	}
}

func TestABareHostHasANetworkAndNothingElse(t *testing.T) {
	c, ctx := ForTest(t), t.Context()
	h, err := c.NewEdgeHost(ctx, EdgeConfig{Name: "bare", Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := h.Containerd(); p != nil {
		t.Errorf("expected no containerd, found process %d", p.PID())
	}
	l, err := net.Listen("tcp", net.JoinHostPort(h.RootAddress(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := h.DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := h.Cut(); err != nil {
		t.Fatal(err)
	}
	if cut, err := h.IsCut(ctx); err != nil || !cut {
		t.Errorf("expected the cable to be out, found %v, %v", cut, err)
	}
}
