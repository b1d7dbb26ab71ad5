package image

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pinsFor is how long ImageStatus uses the pins that it found. ListImages, which garbage collection goes by, finds them anew.
const pinsFor = time.Second

// pins finds the images that garbage collection is to leave.
type pins struct {
	runtime remote
	proofs  *proofs
	// pods are the names of the images of all pods of the node.
	pods func(context.Context) ([]string, error)
	// sandbox is the name of the runtime's sandbox image; empty if it does not say.
	sandbox func(context.Context) (string, error)
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time

	mu sync.Mutex // guards what follows
	// last and at are the pins that were found last; nil if that failed.
	last *pinned
	at   time.Time
}

// pinned are the refs of images; all if it could not be found out. odd are the names for which the runtime has an error.
type pinned struct {
	refs, odd map[string]bool
	all       bool
}

func (p *pinned) holds(i *runtimeapi.Image) bool {
	if p.all || p.refs[i.GetId()] {
		return true
	}
	// A runtime may name an image by its digest in a repository.
	for _, d := range i.GetRepoDigests() {
		if p.refs[d] {
			return true
		}
	}
	return false
}

// find asks the runtime which images the names mean: it resolves them as it does for the kubelet.
func (p *pins) find(ctx context.Context) *pinned {
	found, err := p.lookUp(ctx)
	if err != nil {
		found = &pinned{all: true}
		if ctx.Err() == nil {
			p.log.Warn("cannot find out which images the pods need: garbage collection leaves all", "error", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.at = found, p.now()
	return found
}

// recent are pins that are at most pinsFor old.
func (p *pins) recent(ctx context.Context) *pinned {
	p.mu.Lock()
	last, fresh := p.last, p.now().Sub(p.at) < pinsFor
	p.mu.Unlock()
	if last != nil && fresh {
		return last
	}
	return p.find(ctx)
}

func (p *pins) lookUp(ctx context.Context) (*pinned, error) {
	names, err := p.pods(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the images of the pods: %w", err)
	}
	sandbox, err := p.sandbox(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for its sandbox image: %w", err)
	}
	if sandbox != "" {
		names = append(names, sandbox)
	}
	pins, asked := &pinned{refs: map[string]bool{}, odd: map[string]bool{}}, map[string]bool{}
	for _, name := range names {
		if name == "" || asked[name] {
			continue
		}
		asked[name] = true
		found, err := p.runtime.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
		if err != nil && !ofTheName(err) {
			return nil, fmt.Errorf("ask the runtime for image %s: %w", name, err)
		}
		if err != nil {
			pins.odd[name] = true
			if !p.knowsOdd(name) {
				p.log.Warn("the runtime cannot say which image a pod needs: garbage collection may take it", "image", name, "error", err)
			}
		}
		if id := found.GetImage().GetId(); id != "" {
			pins.refs[id] = true
		}
		// The name may mean a newer image by now than the one that serves some of its pods offline.
		for _, ref := range append(p.proofs.refs(name), p.proofs.refs(name+":latest")...) { // the kubelet asks for that where there is no tag
			pins.refs[ref] = true
		}
	}
	return pins, nil
}

// ofTheName reports whether an error of the runtime is of the one name that it was asked for, such as a name that is none
// or an ambiguous one, for which containerd and CRI-O have no code. One pod with such a name must not end garbage collection.
func ofTheName(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.Unknown:
		return true
	}
	return false
}

// knowsOdd reports whether the name was an odd one at the last look.
func (p *pins) knowsOdd(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last != nil && p.last.odd[name]
}

// list, stream and status change the runtime's answers of the calls of those names. What cannot be decoded is passed on.
func (p *pins) list(ctx context.Context, f frame) frame {
	m := &runtimeapi.ListImagesResponse{}
	return p.edit(f, m, func() { p.mark(p.find(ctx), m.Images) })
}

func (p *pins) stream(ctx context.Context, f frame) frame {
	m := &runtimeapi.StreamImagesResponse{}
	return p.edit(f, m, func() { p.mark(p.recent(ctx), m.Images) })
}

func (p *pins) status(ctx context.Context, f frame) frame {
	m := &runtimeapi.ImageStatusResponse{}
	return p.edit(f, m, func() {
		if m.Image != nil && p.recent(ctx).holds(m.Image) {
			m.Image.Pinned = true
		}
	})
}

func (p *pins) edit(f frame, m proto.Message, change func()) frame {
	err := proto.Unmarshal(f, m)
	if err == nil {
		change()
		var out []byte
		if out, err = proto.Marshal(m); err == nil {
			return out
		}
	}
	p.log.Warn("cannot read the runtime's images: they are passed on without pins", "error", err)
	return f
}

func (p *pins) mark(found *pinned, images []*runtimeapi.Image) {
	n := 0
	for _, i := range images {
		if found.holds(i) {
			i.Pinned = true
		}
		if i.Pinned {
			n++
		}
	}
	p.metrics.pinned.Set(float64(n))
	p.metrics.pinsAll.Set(0)
	if found.all {
		p.metrics.pinsAll.Set(1)
	}
}
