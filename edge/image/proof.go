package image

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Memory keeps what must outlive the process, by key. Put returns once the value is on the disk.
type Memory interface {
	Put(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, keys ...string) error
	All(ctx context.Context, visit func(key string, value []byte) error) error
}

// Limits of what is remembered. The oldest goes first.
const (
	maxNames  = 1000 // image names
	maxProofs = 32   // credentials for one name that were given the image, and as many that were refused it
	maxName   = 4096 // bytes of a name
)

// A proof says that the registry gave an image to the holder of credentials, or a no: that it refused them what it had
// given to everyone.
type proof struct {
	// Ref is the image as the runtime named it; empty for a no.
	Ref string `json:"ref"`
	// Hash is of the credentials, with the record's salt; empty where none were sent.
	Hash []byte `json:"hash,omitempty"`
}

func (p proof) no() bool { return p.Ref == "" }

// A record is what is known of one image name. Its JSON is the note's value.
type record struct {
	Salt []byte `json:"salt"`
	// At is when the record last changed, in seconds since 1970.
	At int64 `json:"at"`
	// Proofs have the newest last, and one for each hash. Noes are there only beside, and are newer than, a proof without
	// credentials.
	Proofs []proof `json:"proofs"`
}

// credentials are what a pull was asked with, in a form that can be hashed; nil for none.
type credentials []byte

// credentialsOf takes an AuthConfig without a value in it for none, as containerd does.
func credentialsOf(a *runtimeapi.AuthConfig) credentials {
	fields := []string{a.GetUsername(), a.GetPassword(), a.GetAuth(), a.GetServerAddress(), a.GetIdentityToken(), a.GetRegistryToken()}
	if a.GetUsername() == "" && a.GetPassword() == "" && a.GetAuth() == "" && a.GetIdentityToken() == "" && a.GetRegistryToken() == "" {
		return nil
	}
	var c credentials
	for _, f := range fields {
		c = binary.AppendUvarint(c, uint64(len(f)))
		c = append(c, f...)
	}
	return c
}

func (r *record) hash(c credentials) []byte {
	if c == nil {
		return nil
	}
	h := hmac.New(sha256.New, r.Salt)
	h.Write(c)
	return h.Sum(nil)
}

// find returns the place of the proof with that hash, or -1.
func (r *record) find(hash []byte) int {
	return slices.IndexFunc(r.Proofs, func(p proof) bool { return hmac.Equal(p.Hash, hash) })
}

// bound drops the oldest beyond maxProofs. Noes have a bound of their own, so that who is refused costs nobody a proof.
func (r *record) bound() {
	free := map[bool]int{false: maxProofs, true: maxProofs}
	for i := len(r.Proofs) - 1; i >= 0; i-- {
		no := r.Proofs[i].no()
		if free[no]--; free[no] < 0 {
			r.Proofs = slices.Delete(r.Proofs, i, i+1)
		}
	}
	if r.find(nil) < 0 {
		r.Proofs = slices.DeleteFunc(r.Proofs, proof.no)
	}
}

// proofs are all records, in memory and in Memory.
type proofs struct {
	memory Memory
	log    *slog.Logger
	now    func() time.Time

	mu sync.Mutex // guards records, and is held while memory is written so that the two agree
	// records by image name, as the kubelet spells it.
	records map[string]*record
}

// load reads the records. One that cannot be read is dropped: its image is pulled again, or does not serve.
func (p *proofs) load(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.records = map[string]*record{}
	return p.memory.All(ctx, func(name string, value []byte) error {
		var r record
		if err := json.Unmarshal(value, &r); err != nil {
			p.log.Warn("cannot read which credentials pulled an image", "image", name, "error", err)
			return nil
		}
		p.records[name] = &r
		return nil
	})
}

// allowed returns the image that the registry gave to these credentials under that name; empty for none. An image for which no
// credentials were needed is for everyone but whom the registry refused since.
func (p *proofs) allowed(name string, c credentials) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.records[name]
	if r == nil {
		return ""
	}
	i := r.find(r.hash(c))
	if i < 0 {
		i = r.find(nil)
	}
	if i < 0 {
		return ""
	}
	return r.Proofs[i].Ref
}

// refs are all images that could serve under that name.
func (p *proofs) refs(name string) (refs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.records[name]; r != nil {
		for _, proof := range r.Proofs {
			if !proof.no() {
				refs = append(refs, proof.Ref)
			}
		}
	}
	return refs
}

// count is how many names there are.
func (p *proofs) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.records)
}

// grant notes that the registry gave the image ref to these credentials. It writes only what is new: a pull that changes
// nothing costs the flash nothing.
func (p *proofs) grant(ctx context.Context, name string, c credentials, ref string) {
	if name == "" || len(name) > maxName || ref == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := &record{}
	if old := p.records[name]; old != nil {
		r.Salt, r.Proofs = old.Salt, slices.Clone(old.Proofs)
	} else {
		r.Salt = make([]byte, 16)
		rand.Read(r.Salt) // it never fails
	}
	hash := r.hash(c)
	// What is for everyone again is so for those who were refused.
	past := func(x proof) bool { return c == nil && x.no() }
	if i := r.find(hash); i >= 0 && r.Proofs[i].Ref == ref && !slices.ContainsFunc(r.Proofs, past) {
		return
	}
	r.Proofs = slices.DeleteFunc(r.Proofs, func(x proof) bool { return past(x) || hmac.Equal(x.Hash, hash) })
	r.Proofs = append(r.Proofs, proof{Ref: ref, Hash: hash})
	p.replace(ctx, name, r)
	if len(p.records) > maxNames {
		p.drop(ctx, p.oldest())
	}
}

// revoke forgets what these credentials proved, and notes the no where the image is for everyone: the registry's last word
// counts. Others, who may have been right to ask without credentials, are not concerned.
func (p *proofs) revoke(ctx context.Context, name string, c credentials) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.records[name]
	if old == nil {
		return
	}
	hash := old.hash(c)
	i, open := old.find(hash), old.find(nil) >= 0
	r := &record{Salt: old.Salt, Proofs: slices.Clone(old.Proofs)}
	switch {
	case i >= 0 && old.Proofs[i].no(), i < 0 && !open:
		return // it is so already
	case i >= 0:
		r.Proofs = slices.Delete(r.Proofs, i, i+1)
	}
	if c != nil && open {
		r.Proofs = append(r.Proofs, proof{Hash: hash})
	}
	p.replace(ctx, name, r)
}

// forget drops every proof for an image that was removed.
func (p *proofs) forget(ctx context.Context, ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, r := range p.records {
		left := slices.DeleteFunc(slices.Clone(r.Proofs), func(x proof) bool { return x.Ref == ref })
		if len(left) < len(r.Proofs) {
			p.replace(ctx, name, &record{Salt: r.Salt, Proofs: left})
		}
	}
}

// replace changes a record within its bounds, and drops one that says nothing.
func (p *proofs) replace(ctx context.Context, name string, r *record) {
	if r.bound(); len(r.Proofs) == 0 {
		p.drop(ctx, name)
		return
	}
	p.put(ctx, name, r)
}

// put changes a record here and on the disk. A disk that is full costs the node the proof after its next start only.
func (p *proofs) put(ctx context.Context, name string, r *record) {
	r.At = p.now().Unix()
	p.records[name] = r
	value, err := json.Marshal(r)
	if err == nil {
		err = p.memory.Put(ctx, name, value)
	}
	if err != nil {
		p.log.Warn("cannot keep which credentials pulled an image: after the next start it does not serve them offline", "image", name, "error", err)
	}
}

func (p *proofs) drop(ctx context.Context, name string) {
	delete(p.records, name)
	if err := p.memory.Delete(ctx, name); err != nil {
		p.log.Warn("cannot forget which credentials pulled an image: after the next start it serves them offline", "image", name, "error", err)
	}
}

func (p *proofs) oldest() (name string) {
	var at int64
	for n, r := range p.records {
		if name == "" || r.At < at {
			name, at = n, r.At
		}
	}
	return name
}

// String keeps secrets out of logs.
func (c credentials) String() string { return fmt.Sprintf("credentials of %d bytes", len(c)) }
