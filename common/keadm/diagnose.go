package keadm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tether-edge/tether/apis/config/v1alpha1"
	"github.com/tether-edge/tether/common/drill"
	"github.com/tether-edge/tether/common/pki"
	"github.com/tether-edge/tether/common/transport"
	"github.com/tether-edge/tether/common/wire"
)

// silent tells of an edgecore that does not answer.
func (r *machineReport) silent(ctx context.Context, why error, s *service, p *preflight) {
	found := fmt.Sprintf("edgecore does not answer (%v): ", why)
	switch own, _, err := kubelets(p.root, p.file); {
	case err != nil:
		found += "whether it runs is not known: " + err.Error()
	case len(own) > 0:
		found += "it runs as process " + own[0].pid + " and is either just starting or hangs"
	default:
		found += "it does not run"
	}
	start, log := s.advice()
	if words := s.lastWords(ctx); words != "" {
		found += "; its last words were: " + words
	}
	r.add(true, "edgecore", found, "start it: "+start+"; its log: "+log)
}

// The states of a kubelet's start, as edge/kubelet names them.
const (
	kubeletWaitingSync    = "waiting-sync"
	kubeletWaitingHost    = "waiting-host"
	kubeletWaitingRuntime = "waiting-runtime"
	kubeletDelayed        = "delayed"
	kubeletStarting       = "starting"
	kubeletRunning        = "running"
)

// soon is how long what takes its time now and then may take before it is wrong.
const soon = time.Minute

// judge tells what is wrong by what edgecore says of itself.
func (r *machineReport) judge(st *edgeStatus, now time.Time) {
	link := st.Link
	switch {
	case !link.Connected:
		r.add(true, "link", "the link is "+link.describe(now), linkRemedy(link.Problem))
	case !link.Synced:
		r.add(now.Sub(link.Since) > soon, "sync", "the link is "+link.describe(now)+": the node lacks what changed in the cloud meanwhile",
			"wait while it is under way; if it stays so, the logs of edgecore and CloudCore say why")
	}
	r.judgeKubelet(&st.Kubelet, now)
	r.judgeSealing(st)
	if s := st.Store; s.Damaged != "" {
		r.add(false, "database", fmt.Sprintf("the database was damaged (%s), set aside as %s and made anew from: %s", s.Damaged, s.SetAside, s.Restored),
			"look whether the disk fails (dmesg, smartctl); what was set aside may be deleted")
	}
}

// judgeSealing tells of Secrets that cannot be opened.
func (r *machineReport) judgeSealing(st *edgeStatus) {
	if n := st.Store.Unreadable; n > 0 {
		why := "their key is lost"
		if st.Sealing != nil && len(st.Sealing.Lost) > 0 {
			why = strings.Join(st.Sealing.Lost, "; ")
		}
		r.add(false, "sealing", fmt.Sprintf("%d stored Secrets and tokens could not be opened when edgecore started: %s", n, why),
			"bring the link up: the cloud sends them again; until then pods that need them start no container anew. If the TPM only came up late, restart edgecore")
	}
}

func (r *machineReport) judgeKubelet(k *kubeletStatus, now time.Time) {
	what := "the kubelet is " + k.describe(now)
	switch k.State {
	case kubeletRunning:
	case kubeletStarting:
		r.add(now.Sub(k.Since) > soon, "kubelet", what, "wait while it starts; if it stays so, lines with part=kubelet in edgecore's log say why")
	case kubeletWaitingSync:
		r.add(true, "kubelet", what, "it begins once the node has heard from the cloud for the first time: mend the link")
	case kubeletWaitingRuntime:
		r.add(true, "kubelet", what, "start the container runtime: systemctl restart containerd; the kubelet begins by itself then")
	case kubeletWaitingHost:
		r.add(true, "kubelet", what, "give the machine what is said to be missing; the kubelet begins by itself then")
	case kubeletDelayed:
		r.add(true, "kubelet", fmt.Sprintf("%s; it ended edgecore at %d starts, the next is at %s", what, k.Attempts, k.Until.UTC().Format(time.RFC3339)),
			"mend what its last words name; lines with part=kubelet in edgecore's log say more")
	default:
		r.add(true, "kubelet", what, "this keadm knows no such state: use the keadm of edgecore's version")
	}
}

// linkRemedy knows a remedy for each kind of trouble, by the words of the errors that end up in a link's status.
func linkRemedy(problem string) string {
	says := func(words ...any) bool {
		return slices.ContainsFunc(words, func(w any) bool { return strings.Contains(problem, fmt.Sprint(w)) })
	}
	switch {
	case says(drill.ErrCut):
		return "nothing has to be done: a drill that was ordered beside the cluster ends by itself; 'keadm ctl drill stop' here ends it now"
	case says(pki.ErrExpired):
		return "see what is said of the certificate and the time; edgecore renews a certificate by itself when it reaches the join port"
	case says(pki.ErrUntrusted):
		return "the node belongs to another CloudCore, or something in between answers in its place: compare 'keadm check' from another network, or reset and join again"
	case says(pki.ErrRefused, "certificate was revoked"):
		return "'keadm certs list' beside the cluster says whether it was revoked; to take the node back, 'keadm reset edge' here and join again with a new token"
	case says(wire.Reason_REASON_NOT_READY, wire.Reason_REASON_OVERLOADED, wire.Reason_REASON_DRAIN):
		return "nothing has to be done here: CloudCore asks to come back later, and edgecore does; if it stays so, look at CloudCore"
	case says(transport.ErrRefused, wire.Reason_REASON_REFUSED, wire.Reason_REASON_REPLACED, wire.Reason_REASON_PROTOCOL):
		return "CloudCore is there and does not take this node: its log says why; 'keadm certs list' beside the cluster says which machine has the name"
	}
	return "mend the network: the machine's own, then firewalls on the way to CloudCore's ports, then CloudCore; edgecore goes on trying, and its pods run on"
}

// judgeCertificate tells what is wrong with a node's certificate. A node that is offline may well have an old one; the
// sentence tells whether that can be mended without a new join.
func (r *machineReport) judgeCertificate(cfg *v1alpha1.EdgeCore, now time.Time) {
	certs, err := pki.ReadCertificates(cfg.Cloud.CertFile)
	if err != nil {
		r.add(true, "certificate", err.Error(), "join again; edgecore cannot start without it")
		return
	}
	c := certs[0]
	r.Certificate = &lifetime{c.NotBefore, c.NotAfter}
	if name, err := pki.NodeName(c); err != nil || name != cfg.NodeName {
		r.add(true, "certificate", fmt.Sprintf("%s is of %q, nodeName is %q", cfg.Cloud.CertFile, c.Subject.CommonName, cfg.NodeName),
			"correct nodeName in the configuration, or join again under the new name")
		return
	}
	issued := pki.Issued(c)
	due := renewal(issued, c.NotAfter)
	late := c.NotAfter.Add(-c.NotAfter.Sub(issued) / 4)
	switch {
	case now.Before(issued.Add(-maxSkew)):
		r.add(true, "time", fmt.Sprintf("this machine's clock says %s, the certificate was issued later, on %s", stamp(now), stamp(issued)),
			"set the clock, and keep it set (chrony, systemd-timesyncd): the link works with a corrected time, the kubelet and the pods do not")
	case now.After(c.NotAfter):
		r.add(true, "certificate", fmt.Sprintf("it expired on %s (%s ago)", stamp(c.NotAfter), span(now.Sub(c.NotAfter))),
			"mend the way to CloudCore's join port, and edgecore exchanges it by itself; after 90 days (join.renewalGrace) only a new join helps")
	case now.After(late):
		r.add(true, "certificate", fmt.Sprintf("it expires on %s (in %s) and edgecore could not renew it since %s", stamp(c.NotAfter), span(c.NotAfter.Sub(now)), stamp(due)),
			"mend the way to CloudCore's join port; edgecore's log says why it fails (part=renew)")
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 MST") }
