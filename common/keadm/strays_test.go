package keadm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func affinity(terms ...corev1.NodeSelectorTerm) corev1.PodSpec {
	return corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}}
}

func term(key string, op corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: op, Values: values}}}
}

func TestWhichDaemonSetsLandOnEdgeNodesAndWhichAreMeantTo(t *testing.T) {
	const exists, absent, in, notIn = corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn
	for name, c := range map[string]struct {
		spec         corev1.PodSpec
		lands, meant bool
	}{
		"kube-proxy":                 {corev1.PodSpec{NodeSelector: map[string]string{"kubernetes.io/os": "linux"}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}}, true, false},
		"control planes only":        {corev1.PodSpec{NodeSelector: map[string]string{"node-role.kubernetes.io/control-plane": ""}}, false, false},
		"edges only":                 {corev1.PodSpec{NodeSelector: map[string]string{edgeRole: ""}}, true, true},
		"edges only, by affinity":    {affinity(term(edgeRole, exists)), true, true},
		"edges only, by value":       {affinity(term(edgeRole, in, "")), true, true},
		"edges, or a zone":           {affinity(term(edgeRole, exists), term("zone", in, "a")), true, false},
		"edges, or control planes":   {affinity(term(edgeRole, exists), term("node-role.kubernetes.io/control-plane", exists)), true, true},
		"kept off":                   {affinity(term(edgeRole, absent)), false, false},
		"kept off by value":          {affinity(term(edgeRole, notIn, "x", "")), false, false},
		"kept off one of two ways":   {affinity(term(edgeRole, absent), term("zone", in, "a")), true, false},
		"another role":               {affinity(term("node-role.kubernetes.io/control-plane", exists)), false, false},
		"anything else of the nodes": {affinity(term("zone", in, "a")), true, false},
		"nothing, which no node is":  {affinity(corev1.NodeSelectorTerm{}), false, false},
		"nothing, or edges":          {affinity(corev1.NodeSelectorTerm{}, term(edgeRole, exists)), true, true},
	} {
		if lands, meant := onEdge(&c.spec); lands != c.lands || meant != c.meant {
			t.Errorf("%s: lands %t, is meant to %t; expected %t, %t", name, lands, meant, c.lands, c.meant)
		}
	}
}

// twoSets is a cluster with a DaemonSet that is meant for edges and one that wants every node.
func twoSets() *clusterClient {
	set := func(name string, spec corev1.PodSpec) runtime.Object {
		return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name},
			Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: spec}}}
	}
	return &clusterClient{Interface: fake.NewClientset(
		set("edge-agent", corev1.PodSpec{NodeSelector: map[string]string{edgeRole: ""}}),
		set("proxy", affinity(term("zone", corev1.NodeSelectorOpIn, "a"), term(edgeRole, corev1.NodeSelectorOpExists))))}
}

// terms are how the pods of a DaemonSet may be placed.
func (c *clusterClient) terms(t *testing.T, name string) (terms []corev1.NodeSelectorTerm) {
	t.Helper()
	d, err := c.AppsV1().DaemonSets("kube-system").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a := d.Spec.Template.Spec.Affinity; a != nil {
		terms = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	return terms
}

func TestDaemonSetsThatAskForEdgeNodesAreLeftAlone(t *testing.T) {
	c := twoSets()
	var out, said bytes.Buffer
	if err := checkCluster(t.Context(), IO{Out: &out, Err: &said, In: strings.NewReader("yes\n")}, c, "json", true, false); err != nil {
		t.Fatal(err)
	}
	var got []daemonSet
	want := []daemonSet{{"kube-system/edge-agent", true, false}, {"kube-system/proxy", true, true}}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || !slices.Equal(got, want) {
		t.Errorf("in JSON: %v\n%s", err, out.String())
	}
	if !strings.Contains(said.String(), "Patch kube-system/proxy to") {
		t.Errorf("asked %q", said.String())
	}
	if terms := c.terms(t, "edge-agent"); terms != nil {
		t.Errorf("the one that is meant for edges was patched: %v", terms)
	}
	terms := c.terms(t, "proxy")
	if len(terms) != 2 || len(terms[0].MatchExpressions) != 2 || len(terms[1].MatchExpressions) != 1 {
		t.Errorf("the other has %v", terms)
	}
	out.Reset()
	if err := checkCluster(t.Context(), IO{Out: &out, Err: &said}, c, "", false, false); err != nil || !strings.Contains(out.String(), "kube-system/edge-agent    meant for them, left alone\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestNoDaemonSetIsPatchedWithoutAYes(t *testing.T) {
	c := twoSets()
	var out bytes.Buffer
	err := checkCluster(t.Context(), IO{Out: &out, Err: io.Discard, In: strings.NewReader("no\n")}, c, "", true, false)
	if terms := c.terms(t, "proxy"); err == nil || !strings.Contains(err.Error(), "--force") || len(terms[0].MatchExpressions) != 1 || out.Len() > 0 {
		t.Errorf("%v, %v\n%s", err, terms, out.String())
	}
	if err := checkCluster(t.Context(), IO{Out: &out, Err: io.Discard}, c, "", true, true); err != nil || len(c.terms(t, "proxy")[0].MatchExpressions) != 2 {
		t.Errorf("with --force: %v", err)
	}
}

func TestInitTellsOfDaemonSetsOrKeepsThemOff(t *testing.T) {
	c := twoSets()
	var out bytes.Buffer
	w := IO{Out: &out, Err: io.Discard}
	if left, err := c.strays(t.Context(), w, false); err != nil || !slices.Equal(left, []string{"kube-system/proxy"}) || !strings.Contains(out.String(), "edge nodes too: kube-system/proxy.") || len(c.terms(t, "proxy")[0].MatchExpressions) != 1 {
		t.Errorf("%v\n%s", err, out.String())
	}
	out.Reset()
	if left, err := c.strays(t.Context(), w, true); err != nil || len(left) > 0 || out.String() != "patched  to keep off edge nodes: kube-system/proxy\n" || len(c.terms(t, "proxy")[0].MatchExpressions) != 2 {
		t.Errorf("%v\n%s", err, out.String())
	}
	out.Reset()
	if left, err := c.strays(t.Context(), w, false); err != nil || left == nil || len(left) > 0 || out.Len() > 0 {
		t.Errorf("when none is left: %v\n%s", err, out.String())
	}
}

// A way to be placed that no node meets is left alone: with the role's absence asked for it would be met by all others.
func TestKeepingOffOpensNoWay(t *testing.T) {
	c := &clusterClient{Interface: fake.NewClientset(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "proxy"},
		Spec: appsv1.DaemonSetSpec{Template: corev1.PodTemplateSpec{Spec: affinity(corev1.NodeSelectorTerm{}, term("zone", corev1.NodeSelectorOpIn, "a"))}}})}
	var out bytes.Buffer
	if err := checkCluster(t.Context(), IO{Out: &out, Err: io.Discard}, c, "", true, true); err != nil {
		t.Fatal(err)
	}
	if terms := c.terms(t, "proxy"); len(terms[0].MatchExpressions) != 0 || len(terms[1].MatchExpressions) != 2 || !strings.Contains(out.String(), "patched, kept off from now on") {
		t.Errorf("it has %v\n%s", terms, out.String())
	}
}

// The controller of a DaemonSet writes its status whenever a pod of it changes.
func TestADaemonSetThatChangesMeanwhileIsKeptOffAllTheSame(t *testing.T) {
	c := twoSets()
	conflicts := 2
	c.Interface.(*fake.Clientset).PrependReactor("patch", "daemonsets", func(k8stesting.Action) (bool, runtime.Object, error) {
		conflicts--
		return conflicts >= 0, nil, apierrors.NewConflict(appsv1.Resource("daemonsets"), "proxy", errors.New("the object has been modified"))
	})
	if err := checkCluster(t.Context(), IO{Out: io.Discard, Err: io.Discard}, c, "", true, true); err != nil || conflicts != -1 {
		t.Errorf("%v, with %d conflicts to come", err, conflicts)
	}
	if terms := c.terms(t, "proxy"); len(terms) != 2 || len(terms[0].MatchExpressions) != 2 {
		t.Errorf("terms %+v", terms)
	}
}

func TestACheckOfAClusterThatFindsNothingSaysSo(t *testing.T) {
	for output, want := range map[string]string{"": "no DaemonSet puts pods on edge nodes\n", "json": "[]\n"} {
		var out bytes.Buffer
		c := &clusterClient{Interface: fake.NewClientset()}
		if err := checkCluster(t.Context(), IO{Out: &out, Err: io.Discard}, c, output, false, false); err != nil || out.String() != want {
			t.Errorf("%q: %v\n%s", output, err, &out)
		}
	}
}
