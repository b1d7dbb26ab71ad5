package kubeapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tether-edge/tether/common/object"
)

// call asks the cloud within the bounded wait. An error means that the cloud did not answer; what it answered, good
// or bad, is the reply.
func (s *Server) call(ctx context.Context, c object.Call) (object.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CallTimeout)
	defer cancel()
	reply, err := s.deps.Cloud.Call(ctx, c)
	if err != nil {
		return object.Reply{}, fmt.Errorf("%s %s in the cloud: %w", c.Verb, c.Key, err)
	}
	// To an eviction 429 is an answer: a disruption budget does not allow it now.
	if unanswered(reply.Code) && (c.Subresource != "eviction" || reply.Code != http.StatusTooManyRequests) {
		return object.Reply{}, fmt.Errorf("%s %s in the cloud: it is busy or not ready (code %d)", c.Verb, c.Key, reply.Code)
	}
	return reply, nil
}

// unanswered codes say nothing about the request: it may be made again. 401 is among them, since the identity that
// was refused is the link's and not the caller's, and so is what HTTP has no final code for.
func unanswered(code int) bool {
	return code < http.StatusOK || code == http.StatusUnauthorized || code == http.StatusRequestTimeout ||
		code == http.StatusTooManyRequests || code >= 500
}

// callCreate creates an object that only the cloud can create, and returns what it made. The object comes to the
// store down the stream, like every other.
func (s *Server) callCreate(ctx context.Context, kind object.Kind, subresource string, o object.Object, opts *metav1.CreateOptions) (runtime.Object, error) {
	body, err := s.codecs.encodeJSON(kind.GroupVersion(), o)
	if err != nil {
		return nil, internal(ctx, "encode", err)
	}
	query := url.Values{}
	if opts != nil && opts.FieldManager != "" {
		query.Set("fieldManager", opts.FieldManager)
	}
	if opts != nil && len(opts.DryRun) > 0 {
		query["dryRun"] = opts.DryRun
	}
	reply, err := s.call(ctx, object.Call{
		Verb: "create", Key: object.KeyOf(kind.ID(), o), Subresource: subresource,
		ContentType: runtime.ContentTypeJSON, Body: body, Query: query.Encode(),
	})
	if err != nil {
		return nil, unavailable("%v", err)
	}
	return s.readReply(ctx, reply)
}

// readReply returns the object in a reply, or the error that it stands for.
func (s *Server) readReply(ctx context.Context, reply object.Reply) (runtime.Object, error) {
	o, err := s.codecs.decode(reply.Body)
	if reply.Code/100 != 2 {
		if status, ok := o.(*metav1.Status); ok && err == nil {
			status.Status, status.Code = metav1.StatusFailure, int32(reply.Code)
			return nil, apierrors.FromObject(status)
		}
		return nil, apierrors.NewInternalError(fmt.Errorf("the cloud answered with code %d and no reason", reply.Code))
	}
	if _, ok := o.(*metav1.Status); ok && err == nil {
		err = fmt.Errorf("it is a Status with code %d, expected an object", reply.Code)
	}
	if err != nil {
		return nil, internal(ctx, "read the cloud's answer", err)
	}
	if acc, ok := o.(metav1.Object); ok {
		acc.SetManagedFields(nil)
		// The cloud's versions mean nothing to this API's watches.
		acc.SetResourceVersion("")
	}
	return o, nil
}
