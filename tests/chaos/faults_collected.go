package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// collection is how long pod garbage collection has: it looks every 20 s, and once more at a Node that is missing after 40 s.
const collection = 3 * time.Minute

func collectedFaults() []Fault {
	return []Fault{
		{Name: "node-collected", Class: Object, What: "Somebody deletes the Node while no CloudCore reaches the API server to make it again, until pod garbage collection has deleted all its pods.",
			Promise: "The site keeps what it runs, and each pod that its controller makes anew takes over once it is Ready: the Deployment is never without a pod that is.",
			Least:   time.Second, Most: 10 * time.Second, Alone: true, Replaces: true, begin: collectNode},
	}
}

func collectNode(f *fault) (func() error, error) {
	pods := f.w.Admin.CoreV1().Pods(namespace)
	former, err := pods.List(f.ctx, metav1.ListOptions{LabelSelector: "app in (web, data, agent)", FieldSelector: "spec.nodeName=" + edgeName})
	if err != nil {
		return nil, err
	}
	apps := map[string]bool{}
	for _, p := range former.Items {
		apps[p.Labels["app"]] = true
	}
	if len(apps) != 3 {
		return nil, fmt.Errorf("pods of %v are on the node, expected some of the Deployment, the StatefulSet and the DaemonSet", apps)
	}
	seen := watchReady(f, "web")
	f.load.afterwards(seen)
	f.w.api.set(apiTrouble{gone: true})
	end := func() error { f.w.api.set(apiTrouble{}); return nil }
	if _, err := deleteNode(f); err != nil {
		return end, err
	}
	return end, until(f.ctx, collection, "the pods of a Node that is gone to be collected", func() error {
		now, err := pods.List(f.ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		there := map[types.UID]bool{}
		for _, p := range now.Items {
			there[p.UID] = true
		}
		for _, p := range former.Items {
			if there[p.UID] {
				return fmt.Errorf("pod %s is there", p.Name)
			}
		}
		return nil
	})
}

// watchReady looks at the edge's own API, and returns what ends that and says whether the edge was ever without a pod of an application that is Ready.
func watchReady(f *fault, app string) func(context.Context) error {
	ctx, stop := context.WithCancel(f.ctx)
	var looking sync.WaitGroup
	had, without := false, error(nil)
	looking.Go(func() {
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			local, err := f.w.localAPI()
			if err != nil {
				continue
			}
			l, err := local.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
			if err != nil {
				continue
			}
			n := 0
			for i := range l.Items {
				if l.Items[i].DeletionTimestamp == nil && runs(&l.Items[i]) == nil {
					n++
				}
			}
			if had && n == 0 && without == nil {
				without = fmt.Errorf("at %s the edge had %d pods of %s, and none of them was Ready", time.Now().Format(time.TimeOnly), len(l.Items), app)
			}
			had = had || n > 0
		}
	})
	return func(context.Context) error {
		stop()
		looking.Wait()
		if !had {
			return fmt.Errorf("the edge was never seen with a pod of %s that is Ready", app)
		}
		return without
	}
}
