package keadm

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A wanted is a kind, and one object of it or all.
type wanted struct {
	kind kind
	name string
}

// A kind is a resource that the local API serves.
type kind struct {
	metav1.APIResource
	version schema.GroupVersion
}

// group is the kind without its version.
func (k kind) group() schema.GroupKind {
	return schema.GroupKind{Group: k.version.Group, Kind: k.Kind}
}

// wanted reads KIND[,KIND] [NAME...] or KIND/NAME....
func (g *gateway) wanted(args []string) (out []wanted, err error) {
	if strings.Contains(args[0], "/") {
		for _, a := range args {
			k, name, ok := strings.Cut(a, "/")
			if strings.Contains(name, "/") {
				return nil, fmt.Errorf("%w: arguments in KIND/NAME form may not have more than one slash: %q", errUsage, a)
			}
			if !ok || k == "" || name == "" {
				return nil, fmt.Errorf("%w: expected KIND/NAME like the others, found %q", errUsage, a)
			}
			found, err := g.kinds(k)
			if err != nil {
				return nil, err
			}
			if len(found) > 1 {
				return nil, fmt.Errorf("%w: a name goes with one kind, found %s", errUsage, k)
			}
			out = append(out, wanted{found[0], name})
		}
		return out, nil
	}
	var kinds []kind
	for k := range strings.SplitSeq(args[0], ",") {
		found, err := g.kinds(k)
		if err != nil {
			return nil, err
		}
		for _, k := range found {
			if !slices.ContainsFunc(kinds, func(o kind) bool { return o.version == k.version && o.Name == k.Name }) {
				kinds = append(kinds, k)
			}
		}
	}
	if len(kinds) > 1 && len(args) > 1 {
		return nil, fmt.Errorf("%w: a name goes with one kind, found %s", errUsage, args[0])
	}
	for _, name := range args[1:] {
		if strings.Contains(name, "/") {
			return nil, fmt.Errorf("%w: there is no need to give a kind of its own before KIND/NAME: found %q after %s", errUsage, name, args[0])
		}
		out = append(out, wanted{kinds[0], name})
	}
	if len(args) == 1 {
		for _, k := range kinds {
			out = append(out, wanted{kind: k})
		}
	}
	return out, nil
}

// kinds looks a kind up by any of its names: alone, with its group, or with its version and group. A category, such as all,
// is several.
func (g *gateway) kinds(name string) (category []kind, err error) {
	_, lists, err := g.client.Discovery().ServerGroupsAndResources()
	if err != nil {
		return nil, err
	}
	short, rest, grouped := strings.Cut(strings.ToLower(name), ".")
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, err
		}
		if grouped && rest != gv.Group && rest != gv.Version+"."+gv.Group {
			continue
		}
		for _, r := range list.APIResources {
			names := append([]string{r.Name, r.SingularName, strings.ToLower(r.Kind)}, r.ShortNames...)
			switch {
			case strings.Contains(r.Name, "/"):
			case slices.Contains(names, short):
				return []kind{{r, gv}}, nil
			case slices.Contains(r.Categories, short) && !grouped:
				category = append(category, kind{r, gv})
			}
		}
	}
	if len(category) > 0 {
		return category, nil
	}
	return nil, fmt.Errorf("the server doesn't have a resource type %q: this node holds those that 'kubectl --kubeconfig %s api-resources' lists", name, localKubeconfig(g.cfg.DataDir))
}
