package image

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A remote is what is asked of the runtime beside what is passed on.
type remote interface {
	PullImage(context.Context, *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error)
	ImageStatus(context.Context, *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error)
	// Downloads returns how many bytes of each download the runtime has; an error if it does not tell.
	Downloads(context.Context) (map[string]int64, error)
}

// A Pod is whom a pull is for.
type Pod struct{ Namespace, Name, UID string }

// Served says that an image which is here served in place of a registry that was not heard.
type Served struct {
	Pod Pod
	// Image is the name that was asked for, Ref what serves.
	Image, Ref string
	// Reason is the runtime's error, or that there was no answer in time.
	Reason string
}

// pullLimits are the settings of a puller.
type pullLimits struct {
	// patience is how long a registry has for its first answer while the image that is here could serve, and pause how long a
	// download may rest; hurry is the patience with one that was not heard at the last pull, for as long as silence.
	patience, pause, hurry, silence time.Duration
	// places is how many downloads run at a time.
	places int
	// fallBack says that images serve at all.
	fallBack bool
}

// pullDeps are what a puller works with.
type pullDeps struct {
	runtime remote
	proofs  *proofs
	limits  pullLimits
	log     *slog.Logger
	metrics *metrics
	served  func(Served)
	now     func() time.Time
}

// A puller pulls images and finds what serves in their place.
type puller struct {
	pullDeps
	places chan struct{} // one for each download

	mu sync.Mutex // guards what follows
	// flights are the pulls that run, by image and credentials: a container that is started again and again at a registry that
	// hangs waits for the one pull.
	flights map[string]*flight
	// silent is until when a registry, by its host, is not expected to answer.
	silent  map[string]time.Time
	running sync.WaitGroup // of the flights
}

func newPuller(deps pullDeps) *puller {
	return &puller{pullDeps: deps, places: make(chan struct{}, deps.limits.places), flights: map[string]*flight{}, silent: map[string]time.Time{}}
}

// A flight is one pull at the runtime.
type flight struct {
	image string
	who   credentials
	key   string
	// done is closed when response and err are there.
	done     chan struct{}
	response *runtimeapi.PullImageResponse
	err      error
	cancel   context.CancelFunc

	mu sync.Mutex // guards what follows
	course
	// patience is how long the registry has for its first answer, pause how long a download may rest.
	patience, pause time.Duration
	// queued: it waits for a place.
	queued bool
	// waiters are those who wait. Once somebody went with the image that was here, the pull goes on without any.
	waiters int
	aside   bool
}

// pull serves PullImage.
func (p *puller) pull(ctx context.Context, request *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	f := p.join(ctx, request)
	defer f.leave()
	timer := time.NewTimer(f.silentIn(p.now()))
	defer timer.Stop()
	for {
		select {
		case <-f.done:
			if classify(f.err) == unreachable {
				if ref := p.local(ctx, request, f, status.Convert(f.err).Message()); ref != "" {
					return &runtimeapi.PullImageResponse{ImageRef: ref}, nil
				}
			}
			return f.response, f.err
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-timer.C:
		}
		if why := f.silence(p.now()); why == "" {
			timer.Reset(f.silentIn(p.now()))
		} else if ref := p.local(ctx, request, f, why); ref != "" {
			f.setAside()
			return &runtimeapi.PullImageResponse{ImageRef: ref}, nil
		}
		// Where nothing else serves, the timer has done its work: what the registry says is awaited.
	}
}

// local returns the image that serves whoever sent the request, and says so; empty if there is none.
func (p *puller) local(ctx context.Context, request *runtimeapi.PullImageRequest, f *flight, why string) string {
	if !p.limits.fallBack {
		return ""
	}
	ref := p.proofs.allowed(f.image, f.who)
	if ref == "" {
		return ""
	}
	spec := proto.Clone(request.GetImage()).(*runtimeapi.ImageSpec)
	spec.Image = ref
	found, err := p.runtime.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil || found.GetImage() == nil {
		if err != nil {
			p.log.Warn("cannot see whether an image is here", "image", f.image, "ref", ref, "error", err)
		}
		return ""
	}
	m := request.GetSandboxConfig().GetMetadata()
	s := Served{Pod: Pod{Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUid()}, Image: f.image, Ref: ref, Reason: why}
	p.log.Warn("the image that is here serves: its registry was not heard", "image", s.Image, "ref", s.Ref, "namespace", s.Pod.Namespace, "pod", s.Pod.Name, "reason", why)
	p.metrics.served.Inc()
	p.served(s)
	return ref
}

// join returns the flight for a request, which it starts if there is none. Whoever joins has to leave.
func (p *puller) join(ctx context.Context, request *runtimeapi.PullImageRequest) *flight {
	name, who := request.GetImage().GetImage(), credentialsOf(request.GetAuth())
	spec, _ := proto.MarshalOptions{Deterministic: true}.Marshal(request.GetImage()) // what was read can be written
	key := string(spec) + "\x00" + string(who)
	// What is here may serve: such a pull mostly asks whether there is a newer image, and does not wait behind downloads.
	quick := p.limits.fallBack && p.proofs.allowed(name, who) != ""
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flights[key]; f != nil && f.join() {
		return f
	}
	now := p.now()
	f := &flight{image: name, who: who, key: key, done: make(chan struct{}), waiters: 1, queued: !quick, patience: p.limits.patience, pause: p.limits.pause,
		course: course{began: now, moved: now}}
	if until, ok := p.silent[registryOf(name)]; ok && now.Before(until) {
		f.patience = p.limits.hurry
	}
	ctx, f.cancel = context.WithCancel(context.WithoutCancel(outgoing(ctx)))
	p.flights[key] = f
	p.running.Go(func() { p.fly(ctx, f, request) })
	return f
}

// fly pulls, and notes what the registry said.
func (p *puller) fly(ctx context.Context, f *flight, request *runtimeapi.PullImageRequest) {
	defer f.cancel()
	defer close(f.done)
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.flights[f.key] == f {
			delete(p.flights, f.key)
		}
	}()
	free := func() {}
	if f.queued {
		p.metrics.queued.Inc()
		select {
		case p.places <- struct{}{}:
			free = sync.OnceFunc(func() { <-p.places })
		case <-ctx.Done():
		}
		p.metrics.queued.Dec()
		f.take(p.now())
	}
	defer free()
	p.metrics.running.Inc()
	defer p.metrics.running.Dec()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		p.watch(ctx, f, free)
	}()
	f.response, f.err = p.runtime.PullImage(ctx, request)
	if f.err != nil && ctx.Err() != nil && f.stalled(p.now()) {
		f.err = status.Errorf(codes.DeadlineExceeded, "pull of %s: nothing moved for %v", f.image, stalledAfter)
	}
	f.cancel()
	<-watching
	p.note(f)
}

// note keeps what a flight's end tells of the registry.
func (p *puller) note(f *flight) {
	said := classify(f.err)
	if status.Code(f.err) == codes.Canceled && f.gone() {
		said = failed // whoever wanted it went away
	}
	p.metrics.pulls.WithLabelValues(said.String()).Inc()
	// Not the flight's context, which has ended.
	ctx := context.Background()
	switch said {
	case pulled:
		p.heard(f.image)
		p.proofs.grant(ctx, f.image, f.who, f.response.GetImageRef())
	case refused:
		p.heard(f.image)
		p.proofs.revoke(ctx, f.image, f.who)
	case unreachable:
		p.hush(f.image)
	}
}

// watch looks at the downloads while a pull runs, gives its place to another while nothing moves and ends it when it is over.
func (p *puller) watch(ctx context.Context, f *flight, free func()) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for silent := false; ; {
		downloads, err := p.runtime.Downloads(ctx)
		if ctx.Err() != nil {
			return
		}
		idle, over := f.look(p.now(), downloads, err)
		if over {
			f.cancel()
			return
		}
		if idle && !silent {
			silent = true
			p.hush(f.image) // once: others may hear of the registry while this one hangs on
			free()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// end ends all flights and waits for them. No call comes any more.
func (p *puller) end() {
	p.mu.Lock()
	for _, f := range p.flights {
		f.cancel()
	}
	p.mu.Unlock()
	p.running.Wait()
}

// hush notes that a registry was not heard.
func (p *puller) hush(image string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for host, until := range p.silent {
		if !now.Before(until) {
			delete(p.silent, host)
		}
	}
	p.silent[registryOf(image)] = now.Add(p.limits.silence)
}

// heard notes that a registry answers.
func (p *puller) heard(image string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.silent, registryOf(image))
}

// registryOf is the host in an image's name, as github.com/distribution/reference finds it; empty where the runtime chooses.
func registryOf(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return ""
	}
	return host
}

// join adds a waiter, unless the flight is being ended for want of one.
func (f *flight) join() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.unwanted() {
		return false
	}
	f.waiters++
	return true
}

// leave takes a waiter away. The last one ends the pull, as a kubelet that goes away would at the runtime, unless it goes
// on aside.
func (f *flight) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiters--
	if f.unwanted() {
		f.cancel()
	}
}

// unwanted: nobody waits, and nobody went on without it. f.mu is held.
func (f *flight) unwanted() bool { return f.waiters == 0 && !f.aside }

func (f *flight) gone() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unwanted()
}

func (f *flight) setAside() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aside = true
}

// take begins the pull that has its place.
func (f *flight) take(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queued, f.began, f.moved = false, now, now
}

// look takes the downloads of now. idle: nothing moves, so another may have its place. over: it is to be ended.
func (f *flight) look(now time.Time, downloads map[string]int64, err error) (idle, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.course.look(now, downloads, err)
	return f.idle(now, f.limit()), f.over(now, f.waiters > 0)
}

// limit is how long nothing may move. f.mu is held.
func (f *flight) limit() time.Duration {
	if f.seen {
		return f.pause
	}
	return f.patience
}

func (f *flight) stalled(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over(now, f.waiters > 0)
}

// silentIn is how long to wait before silence is worth asking; at least 10 ms, since what moves meanwhile is noticed by
// looks only.
func (f *flight) silentIn(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.queued {
		return lookEvery
	}
	return max(10*time.Millisecond, f.silentAt(f.limit()).Sub(now))
}

// silence says why the pull was waited for long enough; empty if it was not.
func (f *flight) silence(now time.Time) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.queued || now.Before(f.silentAt(f.limit())):
		return ""
	case f.idle(now, f.limit()):
		return fmt.Sprintf("no answer for %v", now.Sub(f.moved).Round(time.Second))
	}
	return fmt.Sprintf("the pull goes on after %v", now.Sub(f.began).Round(time.Second))
}
