package scenario

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/apis/devices/v1beta1"
	"github.com/tether-edge/tether/common/object"
	"github.com/tether-edge/tether/tests/fleet"
)

// atOnce is how long CloudCore saves writes up that were not needed, in seconds.
const atOnce = 2

// model names the model of all simulated devices, and their protocol.
const model = "meter"

// devices gives each node, of the first thousand processes' worth, a device, and has each report ten times a second.
func devices(ctx context.Context, w *world) error {
	if _, err := w.connect(ctx, w.cfg.Nodes); err != nil {
		return err
	}
	api, err := w.devicesAPI()
	if err != nil {
		return err
	}
	count := min(w.cfg.Nodes, 1000)
	w.say("making %d devices", count)
	if err := makeDevices(ctx, api, count); err != nil {
		return err
	}
	reporting, err := w.withDevices(ctx, count)
	if err != nil {
		return err
	}
	before, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	const interval = 100 * time.Millisecond
	lasts := w.pick(time.Minute, 3*time.Second)
	w.say("%d devices report every %s for %s", count, interval, lasts)
	w.profile(ctx, 30*time.Second)
	start := time.Now()
	if err := beatSome(ctx, reporting, interval, lasts); err != nil {
		return err
	}
	last := time.Now()
	want := map[string]int{}
	for _, p := range reporting {
		counts, err := p.Counts(ctx)
		if err != nil {
			return err
		}
		for node, n := range counts {
			want[node] = n
		}
	}
	err = w.until(ctx, "the last value of every device to be in the cluster", func(ctx context.Context) error {
		wrong, err := wrongValues(ctx, api, count, want)
		if err == nil && wrong > 0 {
			err = fmt.Errorf("%d show another", wrong)
		}
		return err
	})
	if err != nil {
		return err
	}
	delay := time.Since(last)
	after, err := w.scrape(ctx)
	if err != nil {
		return err
	}
	reports := float64(count) * lasts.Seconds() / interval.Seconds()
	writes := after.since(before).sum("tether_api_requests_total", `resource="devicestatuses.devices.kubeedge.io/status"`) +
		after.since(before).sum("tether_api_requests_total", `resource="devicestatuses.devices.kubeedge.io"`)
	w.figure("reports", "1/s", reports/last.Sub(start).Seconds())
	took := last.Add(delay).Sub(start).Seconds()
	allowed := v1alpha1.DefaultCloudCore().Devices
	w.figure("writes to the API server", "1/s", writes/took)
	w.promise("writes per report, of what the rates allow", "", writes/reports, min(float64(count)*allowed.RatePerDevice, allowed.RateOfAll)*(took+atOnce)/reports,
		fmt.Sprintf("devices.rateOfAll is %.0f a second, and what two seconds of rest have saved at once", allowed.RateOfAll))
	w.target("until the last value of every device is in the cluster", "s", delay.Seconds(), 10, "after the last report; asked every 50 ms")
	return w.settled(ctx, w.cfg.Nodes)
}

// devicesAPI is the admin's client for the kinds of devices.
func (w *world) devicesAPI() (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	config := w.REST()
	config.APIPath, config.GroupVersion = "/apis", &v1beta1.GroupVersion
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	return rest.RESTClientFor(config)
}

// makeDevices makes the model, and a device on each of the first nodes, of the node's name.
func makeDevices(ctx context.Context, api *rest.RESTClient, count int) error {
	typeMeta := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: kind}
	}
	m := &v1beta1.DeviceModel{TypeMeta: typeMeta(v1beta1.DeviceModelKind), ObjectMeta: metav1.ObjectMeta{Name: model}}
	m.Spec.Protocol = model
	m.Spec.Properties = []v1beta1.ModelProperty{{Name: fleet.Property, Type: v1beta1.Int, AccessMode: v1beta1.ReadOnly}}
	if err := api.Post().Namespace(namespace).Resource(v1beta1.DeviceModelResource).Body(m).Do(ctx).Error(); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the model: %w", err)
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for i := range count {
		group.Go(func() error {
			name := fleet.Name(prefix, i)
			d := &v1beta1.Device{TypeMeta: typeMeta(v1beta1.DeviceKind), ObjectMeta: metav1.ObjectMeta{Name: name}}
			d.Spec.DeviceModelRef, d.Spec.NodeName = &v1beta1.ModelReference{Name: model}, name
			d.Spec.Protocol = &v1beta1.ProtocolConfig{ProtocolName: model}
			d.Spec.Properties = []v1beta1.DeviceProperty{{Name: fleet.Property, ReportToCloud: new(true)}}
			if err := api.Post().Namespace(namespace).Resource(v1beta1.DeviceResource).Body(d).Do(gctx).Error(); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("make device %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// withDevices waits until the first nodes have their devices, and returns the processes that these are in.
func (w *world) withDevices(ctx context.Context, count int) (some []*process, err error) {
	for _, p := range w.fleets {
		if len(some)*w.cfg.PerProcess < count {
			some = append(some, p)
		}
	}
	return some, w.until(ctx, "the devices to be at their edges", func(ctx context.Context) error {
		there := 0
		for _, p := range some {
			c, err := p.Commits(ctx, fleet.Question{Kind: object.Devices, Namespace: namespace})
			if err != nil {
				return err
			}
			there += len(c.At)
		}
		if there < count {
			return fmt.Errorf("%d of %d are", there, count)
		}
		return nil
	})
}

func beatSome(ctx context.Context, some []*process, interval, d time.Duration) error {
	group, gctx := errgroup.WithContext(ctx)
	for _, p := range some {
		group.Go(func() error {
			_, err := p.Beat(gctx, fleet.BeatDevices, interval, d)
			return err
		})
	}
	return group.Wait()
}

// wrongValues counts the devices whose value in the cluster is not the wanted one.
func wrongValues(ctx context.Context, api *rest.RESTClient, count int, want map[string]int) (int, error) {
	list := &v1beta1.DeviceStatusList{}
	if err := api.Get().Namespace(namespace).Resource(v1beta1.DeviceStatusResource).Do(ctx).Into(list); err != nil {
		return 0, err
	}
	wrong := count
	for _, s := range list.Items {
		for _, t := range s.Status.Twins {
			if t.PropertyName == fleet.Property && t.Reported != nil && t.Reported.Value == strconv.Itoa(want[s.Name]) {
				wrong--
			}
		}
	}
	return wrong, nil
}
