package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/tether-edge/tether/build/images"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/tests/cluster"
)

// waitAutonomy waits until the cluster's Node says so.
func (s *system) waitAutonomy(status corev1.ConditionStatus, reason string) (c corev1.NodeCondition, until string) {
	s.t.Helper()
	cluster.Eventually(s.t, 3*time.Minute, fmt.Sprintf("the Node's autonomy to be %s for %s", status, reason), func() error {
		n, err := s.Admin.CoreV1().Nodes().Get(context.Background(), s.edge.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c = range n.Status.Conditions {
			if c.Type == object.ConditionAutonomy && c.Status == status && c.Reason == reason {
				until = n.Annotations[object.AnnotationAutonomyUntil]
				return nil
			}
		}
		return fmt.Errorf("conditions %v; %s", n.Status.Conditions, s.status())
	})
	return c, until
}

// removeImage has somebody remove an image from the runtime, by hand.
func (s *system) removeImage(name string) {
	s.t.Helper()
	ctx := context.Background()
	conn, err := grpc.NewClient("unix://"+s.edge.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	s.must(err)
	defer conn.Close()
	_, err = runtimeapi.NewImageServiceClient(conn).RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	s.must(err)
	s.t.Cleanup(s.importImages)
}

func (s *system) importImages() {
	s.t.Helper()
	archives, err := cluster.Images(context.Background())
	s.must(err)
	s.must(s.edge.Import(context.Background(), archives...))
}

// inDocument returns the one line of a document that begins so, of those that are commands.
func (s *system) inDocument(path, begin string) string {
	s.t.Helper()
	text, err := os.ReadFile(path)
	s.must(err)
	for line := range strings.Lines(string(text)) {
		if command := strings.TrimSpace(line); strings.HasPrefix(command, begin) {
			return command
		}
	}
	s.t.Fatalf("%s has no command that begins with %q", path, begin)
	return ""
}

// TestANodeSaysBeforehandWhatWillNotGoOnAlone: a pod runs whose image somebody removed. Nothing is wrong yet, and the node
// says that the pod will not start again: to the cluster, in an Event, and to whoever is at the machine when the cable is cut.
func TestANodeSaysBeforehandWhatWillNotGoOnAlone(t *testing.T) {
	s := sharedSystem(t)
	s.runPod("web")
	_, until := s.waitAutonomy(corev1.ConditionTrue, "LongEnough")
	if end, err := time.Parse(time.RFC3339, until); err != nil || time.Until(end) < 30*24*time.Hour {
		t.Errorf("the node can go on until %q (%v), expected that its certificate can be exchanged for months", until, err)
	}
	command := s.inDocument("../../docs/autonomy.md", "kubectl get nodes -o custom-columns=")
	columns := func() string { return s.kubectl("", shellWords(command)[1:]...).out }
	if out := columns(); !strings.Contains(out, s.edge.Name()) || !strings.Contains(out, until) || !strings.Contains(out, "True") {
		t.Errorf("%s\nshows\n%s", command, out)
	}
	before, since := s.containers(), time.Now().Truncate(time.Second)

	s.removeImage(images.Demo)
	c, until := s.waitAutonomy(corev1.ConditionFalse, "ImageMissing")
	if !strings.Contains(c.Message, "pod default/web, image "+images.Demo) {
		t.Errorf("the condition does not say which: %s", c.Message)
	}
	if past, err := time.Parse(time.RFC3339, until); err != nil || past.After(time.Now()) {
		t.Errorf("the annotation is %q (%v), expected a time that is past", until, err)
	}
	event := func(reason string) {
		t.Helper()
		cluster.Eventually(t, time.Minute, "Event "+reason+" at the Node", func() error {
			text, err := eventAt(t.Context(), s.Admin.CoreV1().Events(namespace), s.edge.Name(), reason, since)
			if err == nil && !strings.Contains(text, "web") && !strings.Contains(text, "ImageMissing") {
				err = errors.New(text)
			}
			return err
		})
	}
	event("ImageMissing")
	if out := columns(); !strings.Contains(out, "False") {
		t.Errorf("%s\nshows\n%s", command, out)
	}
	s.cut()
	r := s.expects(0, "autonomy     has ended already", "", "keadm", "status")
	if want := "now: ImageMissing: pod default/web, image " + images.Demo + ": stops pods; "; !strings.Contains(r.out, want) || !strings.Contains(r.out, "CertificateEnds: the node's certificate") {
		t.Errorf("the status lacks %q:\n%s", want, r.out)
	}
	s.heal()

	s.importImages()
	s.waitAutonomy(corev1.ConditionTrue, "LongEnough")
	event("AutonomyMended")
	s.sameContainers(before)
}

// shellWords splits a command as a shell would that knows single quotes only.
func shellWords(command string) (words []string) {
	quoted, word := false, ""
	for _, r := range command {
		switch {
		case r == '\'':
			quoted = !quoted
		case r == ' ' && !quoted:
			words, word = append(words, word), ""
		default:
			word += string(r)
		}
	}
	return append(words, word)
}
