package keadm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
)

// edgeStatus is what edgecore tells of itself: what keadm reads of edge/edgecore's Status.
type edgeStatus struct {
	Node  string      `json:"node"`
	Link  linkStatus  `json:"link"`
	Store storeStatus `json:"store"`
	// Sealing is nil if this edgecore knows none.
	Sealing *sealingStatus `json:"sealing,omitempty"`
	Kubelet kubeletStatus  `json:"kubelet"`
	Outbox  []waiting      `json:"outbox"`
	keptPods
	// Unread says why Outbox is not known.
	Unread string `json:"unread,omitempty"`
	// Autonomy is nil before its first look, and of an edgecore that knows none.
	Autonomy *autonomyStatus `json:"autonomy,omitempty"`
}

// keptPods is what is read of edge/steward's Summary: pods, as namespace/name, that are on the site otherwise than in the cluster.
type keptPods struct {
	// Held run on though the cluster has lost their node.
	Held []string `json:"held,omitempty"`
	// StandIns run in place of pods that ended for good while the cluster could not hear of it.
	StandIns []string `json:"standIns,omitempty"`
	// Fenced were ended, until the cloud is heard again.
	Fenced []string `json:"fenced,omitempty"`
}

// waiting is what is read of edge/store's Waiting: the writes of a class that wait for the cloud.
type waiting struct {
	Class string `json:"class"`
	Count int64  `json:"count"`
	Bytes int64  `json:"bytes"`
	// Oldest is when the one that waits longest was made.
	Oldest time.Time `json:"oldest"`
}

// stateClass is the class of what must arrive at the cloud, such as the end of a pod.
const stateClass = "state"

// linkStatus is what is read of edge/link's Status.
type linkStatus struct {
	Connected bool `json:"connected"`
	// Protocol is websocket or quic, Server the host:port at the other end; both empty while there is no link.
	Protocol string    `json:"protocol,omitempty"`
	Server   string    `json:"server,omitempty"`
	Since    time.Time `json:"since"`
	Synced   bool      `json:"synced"`
	Problem  string    `json:"problem,omitempty"`
}

// storeStatus is what is read of edge/store's Status.
type storeStatus struct {
	Damaged  string `json:"damaged,omitempty"`
	SetAside string `json:"setAside,omitempty"`
	Restored string `json:"restored,omitempty"`
	// Unreadable counts Secrets and tokens whose key was lost at the start.
	Unreadable int `json:"unreadable,omitempty"`
}

// sealingStatus is what is read of edge/seal's Status.
type sealingStatus struct {
	// Source is what seals the key: tpm, systemd-credential or key-file.
	Source string `json:"source"`
	// PassedOver says why no better source is used.
	PassedOver []string `json:"passedOver,omitempty"`
	// Lost says which former keys cannot be had, and why.
	Lost []string `json:"lost,omitempty"`
}

// kubeletStatus is what is read of edge/kubelet's Status.
type kubeletStatus struct {
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
	Attempts int       `json:"attempts"`
	Until    time.Time `json:"until,omitzero"`
	Reason   string    `json:"reason,omitempty"`
}

// statusURL is where edgecore tells of itself.
func statusURL(cfg *v1alpha1.EdgeCore) string { return "http://" + cfg.Metrics.BindAddress + "/status" }

// askStatus asks edgecore how it is. An error means that it does not run, or not yet, or hangs.
func askStatus(ctx context.Context, cfg *v1alpha1.EdgeCore) (*edgeStatus, error) {
	b, err := fetch(ctx, statusURL(cfg), maxStatus)
	if err != nil {
		return nil, err
	}
	s := &edgeStatus{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s: expected edgecore's status, found something else: %w", statusURL(cfg), err)
	}
	return s, nil
}

// maxStatus bounds an answer of edgecore's, in bytes.
const maxStatus = 1 << 20

// fetch asks a URL of this machine and wants 200. What goes beyond limit is left out.
func fetch(ctx context.Context, url string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, limit))
}

// describe tells of the link as a person would.
func (l *linkStatus) describe(now time.Time) string {
	if !l.Connected {
		return fmt.Sprintf("down since %s: %s", moment(l.Since, now), l.Problem)
	}
	s := fmt.Sprintf("up over %s to %s since %s", l.Protocol, l.Server, moment(l.Since, now))
	if !l.Synced {
		s += ", not caught up with the cloud yet"
	}
	return s
}

// describe tells what protects the Secrets on the disk.
func (s *sealingStatus) describe() string {
	what, ok := map[string]string{
		"tpm":                "by this machine's TPM",
		"systemd-credential": "by the systemd credential tether-seal",
		"key-file":           "by a key file that root may read on the same disk",
	}[s.Source]
	if !ok {
		what = "by " + s.Source
	}
	text := "stored Secrets and tokens are sealed " + what
	if len(s.PassedOver) > 0 {
		text += " (" + strings.Join(s.PassedOver, "; ") + ")"
	}
	return text
}

func (k *kubeletStatus) describe(now time.Time) string {
	s := fmt.Sprintf("%s since %s", k.State, moment(k.Since, now))
	if k.Reason != "" {
		s += ": " + k.Reason
	}
	return s
}

// moment writes a time that is past, and how long ago it is. A clock that was put right in between makes no sense of that.
func moment(t, now time.Time) string {
	s := t.UTC().Format("2006-01-02 15:04:05 MST")
	if ago := now.Sub(t); ago >= 0 && ago < 10*365*24*time.Hour {
		s += fmt.Sprintf(" (%s)", span(ago))
	}
	return s
}

// span writes a length of time to the unit that matters.
func span(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
	if d >= time.Hour {
		return v1alpha1.Duration(d.Round(time.Minute)).String()
	}
	return d.Round(time.Second).String()
}
