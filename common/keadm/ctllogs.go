package keadm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// defaultContainer is kubectl's annotation for the container that is meant where none is named.
const defaultContainer = "kubectl.kubernetes.io/default-container"

func newCtlLogs(w IO) *cobra.Command {
	var f ctlFlags
	var o corev1.PodLogOptions
	var tail int64
	var since time.Duration
	c := &cobra.Command{
		Use:   "logs POD",
		Short: "Show what a container of a pod wrote",
		Example: "  keadm ctl logs -f web-0\n" +
			"  keadm ctl logs web-0 -c proxy --previous --tail 100",
		Args: expects("a pod", cobra.ExactArgs(1)),
	}
	f.in(c)
	fl := c.Flags()
	fl.StringVarP(&o.Container, "container", "c", "", "the container (default: the pod's first)")
	fl.BoolVarP(&o.Follow, "follow", "f", false, "go on as it writes more")
	fl.BoolVarP(&o.Previous, "previous", "p", false, "of the container before the last restart")
	fl.BoolVar(&o.Timestamps, "timestamps", false, "with the time of each line")
	fl.Int64Var(&tail, "tail", -1, "only so many of the last lines; -1 is all")
	fl.DurationVar(&since, "since", 0, "only what is newer than this, such as 10m")
	c.RunE = f.on(func(ctx context.Context, g *gateway, args []string) error {
		if tail >= 0 {
			o.TailLines = &tail
		}
		if since > 0 {
			o.SinceSeconds = new(int64((since + time.Second - 1) / time.Second))
		}
		pod, err := g.pod(ctx, f.namespace, args[0])
		if err != nil {
			return err
		}
		o.Container = containerOf(w, pod, o.Container)
		stream, err := g.client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &o).Stream(ctx)
		if err != nil {
			return err
		}
		defer stream.Close()
		if _, err = io.Copy(w.Out, stream); errors.Is(err, context.Canceled) {
			return nil // whoever followed has seen enough
		}
		return err
	})
	return c
}

// pod looks up POD or pod/POD.
func (g *gateway) pod(ctx context.Context, namespace, arg string) (*corev1.Pod, error) {
	name, err := podName(arg)
	if err != nil {
		return nil, err
	}
	return g.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// containerOf chooses a container as kubectl does, and says so where there are several.
func containerOf(w IO, pod *corev1.Pod, named string) string {
	if named != "" || len(pod.Spec.Containers) == 0 {
		return named
	}
	if annotated := pod.Annotations[defaultContainer]; annotated != "" {
		return annotated
	}
	var names []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name+" (init)")
	}
	if len(names) > 1 {
		fmt.Fprintf(w.Err, "Defaulted container %q out of: %s\n", names[0], strings.Join(names, ", "))
	}
	return names[0]
}
