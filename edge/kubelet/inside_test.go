package kubelet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/kubelet/server"
)

// certificates is an authentication that lets in who has the word.
type certificates struct{ server.AuthInterface }

func (certificates) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if r.Header.Get("Authorization") != "the word" {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: "operator"}}, true, nil
}

// kubeletServer is a server as the kubelet's is, which says who asked. It returns the way inside, the server's address on
// loopback, and how often that was asked.
func kubeletServer(t *testing.T) (in *inside, address string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	var auth insideAuth
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			asked.Add(1)
		}
		who, ok, err := auth.AuthenticateRequest(r)
		if err != nil || !ok {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, who.User.GetName())
	}))
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	auth = insideAuth{certificates{}, newInside(int32(number))}
	s.StartTLS()
	t.Cleanup(func() {
		_ = auth.inside.Close()
		s.Close()
	})
	return auth.inside, s.Listener.Addr().String(), asked
}

// ask serves a connection inside and asks for something over it.
func ask(t *testing.T, in *inside) string {
	t.Helper()
	caller, c := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- in.serve(context.Background(), c) }()
	go func() { _, _ = io.WriteString(caller, "GET /pods HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n") }()
	answer, err := http.ReadResponse(bufio.NewReader(caller), nil)
	if err != nil {
		t.Fatalf("no answer: %v, and Serve says %v", err, <-done)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve = %v after the connection was closed", err)
	}
	return fmt.Sprintf("%d %s", answer.StatusCode, body)
}

// TestWhoComesFromInsideNeedsNoCertificate, and who comes from outside does, whoever came from inside before.
func TestWhoComesFromInsideNeedsNoCertificate(t *testing.T) {
	in, address, asked := kubeletServer(t)
	for range 3 {
		if got := ask(t, in); got != "200 "+InsideUser {
			t.Errorf("from inside the answer is %q, expected %s to be let in", got, InsideUser)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times on loopback, expected once, to be met", n)
	}
	client := &http.Client{Transport: httptestTransport()}
	for word, status := range map[string]int{"": http.StatusUnauthorized, "the word": http.StatusOK} {
		request, err := http.NewRequest(http.MethodGet, "https://"+address+"/pods", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", word)
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != status {
			t.Errorf("from outside with %q the answer is %s, expected %d", word, answer.Status, status)
		}
	}
}

// httptestTransport asks without knowing whom.
func httptestTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig, t.DisableKeepAlives = anybody(), true
	return t
}

func TestAKubeletThatDoesNotListenIsSaid(t *testing.T) {
	err := newInside(1).serve(context.Background(), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "dial tcp 127.0.0.1:1: ") {
		t.Errorf("Serve = %v, expected that nobody listens at 127.0.0.1:1", err)
	}
}

// TestAnotherServerInTheKubeletsPlaceIsGivenNothing that was meant for the kubelet.
func TestAnotherServerInTheKubeletsPlaceIsGivenNothing(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	in := &inside{url: s.URL, conns: make(chan net.Conn), ended: make(chan struct{})}
	if err := in.serve(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "not the kubelet of this process") {
		t.Errorf("Serve = %v, expected that it is not the kubelet", err)
	}
}

// TestWhatIsServedInsideEndsWithItsContext, and none is served once the kubelet ends.
func TestWhatIsServedInsideEndsWithItsContext(t *testing.T) {
	in, _, _ := kubeletServer(t)
	ask(t, in)
	ctx, cancel := context.WithCancel(context.Background())
	caller, c := net.Pipe()
	defer caller.Close()
	done := make(chan error, 1)
	go func() { done <- in.serve(ctx, c) }()
	if _, err := io.WriteString(caller, "GET /pods HTTP/1.1\r\n"); err != nil { // it reads
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Serve = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve goes on 10 s after its context ended")
	}
	if _, err := caller.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the connection says %v, expected its end", err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := in.serve(context.Background(), c); err == nil {
		t.Error("a kubelet that ends takes another connection")
	}
}
