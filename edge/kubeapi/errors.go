package kubeapi

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tether-edge/tether/common/object"
)

// unavailable is a 503: the client may try again later, and the reason says what it waits for.
func unavailable(format string, args ...any) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf(format, args...))
}

func badRequest(format string, args ...any) error {
	return apierrors.NewBadRequest(fmt.Sprintf(format, args...))
}

// expired is a 410: the client has to list again.
func expired(message string) *apierrors.StatusError { return apierrors.NewResourceExpired(message) }

func notFound(gr schema.GroupResource, name string) error { return apierrors.NewNotFound(gr, name) }

func forbidden(gr schema.GroupResource, name, format string, args ...any) error {
	return apierrors.NewForbidden(gr, name, fmt.Errorf(format, args...))
}

// internal is a 500 that names the operation, or a timeout where the caller went away first.
func internal(ctx context.Context, operation string, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return apierrors.NewTimeoutError(operation+": "+err.Error(), 1)
	}
	if errors.Is(err, object.ErrFull) {
		return unavailable("%s: %v", operation, err)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewInternalError(fmt.Errorf("%s: %w", operation, err))
}

func isConflict(err error) bool { return errors.Is(err, object.ErrConflict) }

func isExpired(err error) bool { return errors.Is(err, object.ErrExpired) }

// statusOf returns err as the object of an ERROR watch event.
func statusOf(err error) *metav1.Status {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		s := status.Status()
		return &s
	}
	s := apierrors.NewInternalError(err).Status()
	return &s
}
