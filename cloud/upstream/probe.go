package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/common/object"
)

// Impersonation is how requests are made in a node's name.
type Impersonation string

const (
	// Auto asks the API server once, with a dry-run write, and takes Constrained if it works, else Legacy.
	Auto Impersonation = "auto"
	// Constrained names the user only. API servers from 1.36 then demand a right for each verb (KEP-5284) and add the
	// group themselves; a group header would switch that off.
	Constrained Impersonation = "constrained"
	// Legacy names the user and the group system:nodes, for API servers before 1.36. The right it needs has no
	// prefix of names and is nearly cluster-admin.
	Legacy Impersonation = "legacy"
)

// probeNode is a Node that does not exist. Patching it is refused for want of rights, or else answered with 404.
const probeNode = "tether-impersonation-probe"

// errUndecided: the API server cannot be asked, so nothing is known about rights.
var errUndecided = errors.New("the API server did not answer")

// Probe finds out whether CloudCore may act as a node, by a dry-run write that changes nothing, and logs the way. In
// mode Auto it decides the way, once. Its error says which rights are missing, or why the API server did not answer.
// Apply and Call probe by themselves if nobody did.
func (a *Applier) Probe(ctx context.Context) error {
	a.probing.Lock()
	defer a.probing.Unlock()
	modes := []Impersonation{a.cfg.Impersonation}
	if a.cfg.Impersonation == Auto {
		if m := a.current(); m != Auto {
			modes = []Impersonation{m}
		} else {
			modes = []Impersonation{Constrained, Legacy}
		}
	}
	var refusals []string
	for _, mode := range modes {
		refusal, err := a.probe(ctx, mode)
		if err != nil {
			return fmt.Errorf("probe impersonation: %w", err)
		}
		if refusal == "" {
			if a.current() == Auto {
				a.modeMu.Lock()
				a.mode = mode
				a.modeMu.Unlock()
			}
			a.m.mode.Reset()
			a.m.mode.WithLabelValues(string(mode)).Set(1)
			a.deps.Log.Info("CloudCore can act as a node", "impersonation", mode)
			return nil
		}
		refusals = append(refusals, fmt.Sprintf("%s: %s", mode, refusal))
	}
	return fmt.Errorf("probe impersonation: CloudCore may not act as a node (%s); missing for constrained mode: %s; apply the impersonation manifests of this release (build/manifests) as an administrator, impersonation-legacy.yaml only where the API server is older than 1.36",
		strings.Join(refusals, "; "), strings.Join(a.missing(ctx), ", "))
}

func (a *Applier) current() Impersonation {
	a.modeMu.RLock()
	defer a.modeMu.RUnlock()
	return a.mode
}

// decided returns the way to act as a node, asking the API server if nobody did yet.
func (a *Applier) decided(ctx context.Context) (Impersonation, error) {
	if m := a.current(); m != Auto {
		return m, nil
	}
	if err := a.Probe(ctx); err != nil {
		a.m.faults.Inc()
		return Auto, err
	}
	return a.current(), nil
}

// probe returns an empty refusal where mode works.
func (a *Applier) probe(ctx context.Context, mode Impersonation) (refusal string, err error) {
	kind, _ := object.Lookup(object.Nodes)
	ans := a.client.do(ctx, request{
		verb: http.MethodPatch, kind: kind, name: probeNode, subresource: "status", query: url.Values{"dryRun": {"All"}},
		contentType: mergePatchType, accept: jsonType, body: []byte(`{"status":{}}`), as: probeNode, mode: mode,
	})
	switch {
	case ans.ok(), ans.code == http.StatusNotFound:
		return "", nil
	case ans.code == http.StatusForbidden:
		return ans.status.Message, nil
	case ans.err != nil:
		return "", fmt.Errorf("%w: %w", errUndecided, ans.err)
	}
	return "", fmt.Errorf("%w as expected (404): %d %s", errUndecided, ans.code, ans.status.Message)
}

// A right is what a request in a node's name needs in constrained mode.
type right struct {
	verb, group, resource, subresource string
}

func (r right) String() string {
	s := r.verb + " " + r.resource
	if r.subresource != "" {
		s += "/" + r.subresource
	}
	if r.group != "" {
		s += "." + r.group
	}
	return s
}

// writeRights are those without which edge state does not arrive.
func writeRights() []right {
	const on = "impersonate-on:arbitrary-node:"
	return []right{
		{"impersonate:arbitrary-node", "authentication.k8s.io", "nodes", ""},
		{on + "create", "", "nodes", ""}, {on + "get", "", "nodes", ""}, {on + "patch", "", "nodes", "status"},
		{on + "get", "", "pods", ""}, {on + "create", "", "pods", ""}, {on + "delete", "", "pods", ""}, {on + "patch", "", "pods", "status"},
		{on + "create", "", "events", ""}, {on + "create", "", "serviceaccounts", "token"},
		{on + "get", "storage.k8s.io", "csinodes", ""}, {on + "create", "storage.k8s.io", "csinodes", ""}, {on + "update", "storage.k8s.io", "csinodes", ""},
	}
}

// missing asks the API server which of writeRights CloudCore lacks. Every user may ask that about itself.
func (a *Applier) missing(ctx context.Context) []string {
	review := object.Kind{Resource: "selfsubjectaccessreviews"}
	review.Group, review.Version = authorizationv1.SchemeGroupVersion.Group, authorizationv1.SchemeGroupVersion.Version
	var out []string
	for _, r := range writeRights() {
		body, err := json.Marshal(&authorizationv1.SelfSubjectAccessReview{
			TypeMeta: metav1.TypeMeta{APIVersion: authorizationv1.SchemeGroupVersion.String(), Kind: "SelfSubjectAccessReview"},
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.subresource,
			}},
		})
		if err != nil {
			return []string{"unknown (" + err.Error() + ")"}
		}
		ans := a.client.do(ctx, request{verb: http.MethodPost, kind: review, contentType: jsonType, accept: jsonType, body: body})
		var got authorizationv1.SelfSubjectAccessReview
		if !ans.ok() || json.Unmarshal(ans.body, &got) != nil {
			return append(out, "unknown beyond this (the API server did not say)")
		}
		if !got.Status.Allowed {
			out = append(out, r.String())
		}
	}
	if len(out) == 0 {
		return []string{"nothing (the API server may be older than 1.36)"}
	}
	return out
}
