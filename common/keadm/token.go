package keadm

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tether-edge/tether/common/trust"
)

// tokenFlags say what a token is to allow.
type tokenFlags struct {
	kubeconfig string
	request    trust.TokenRequest
}

func (f *tokenFlags) add(c *cobra.Command) {
	kubeconfigFlag(c, &f.kubeconfig)
	c.Flags().StringVar(&f.request.Nodes, "node", "*", "name of the node that may join with it, or a pattern such as 'shop-*'")
	c.Flags().IntVar(&f.request.MaxUses, "uses", 1, "how many nodes may join with it; 0 for any number")
	c.Flags().DurationVar(&f.request.Life, "ttl", 24*time.Hour, "how long it is valid")
}

func kubeconfigFlag(c *cobra.Command, into *string) {
	// KubeEdge's spelling is kept beside Kubernetes'.
	c.Flags().StringVar(into, "kubeconfig", "", "the cluster's admin kubeconfig (default: KUBECONFIG, then ~/.kube/config)")
	c.Flags().StringVar(into, "kube-config", "", "the same as --kubeconfig")
	_ = c.Flags().MarkHidden("kube-config")
}

// nodePattern makes a pattern that no node's name can match a usage error: its token would be of no use to anybody.
func nodePattern(flag, pattern string) error {
	if faults := validation.IsDNS1123Subdomain(strings.NewReplacer("*", "a", "?", "a").Replace(pattern)); len(faults) > 0 {
		return fmt.Errorf("%w: --%s: expected a node's name (lower case letters, digits, - and .), or a pattern of one with * and ?, found %q", errUsage, flag, pattern)
	}
	return nil
}

// tokenUsage judges what a token is to allow; prefix is that of the flags' names.
func tokenUsage(prefix string, r trust.TokenRequest) error {
	if r.MaxUses < 0 {
		return fmt.Errorf("%w: --%suses: expected how many nodes, or 0 for any number, found %d", errUsage, prefix, r.MaxUses)
	}
	if err := positive(prefix+"ttl", r.Life); err != nil {
		return err
	}
	return nodePattern(prefix+"node", r.Nodes)
}

// madeToken is a new join token, for programs.
type madeToken struct {
	// Token is what keadm join takes.
	Token string `json:"token"`
	ID    string `json:"id"`
	Nodes string `json:"nodes"`
	// MaxUses is how often it may be used; 0 for any number.
	MaxUses int       `json:"maxUses"`
	Expires time.Time `json:"expires"`
}

func makeToken(ctx context.Context, w IO, store *trust.Store, r trust.TokenRequest) (trust.Bearer, madeToken, error) {
	expires := w.Now().Add(r.Life).UTC().Truncate(time.Second)
	b, err := store.NewToken(ctx, r)
	return b, madeToken{b.String(), b.ID, r.Nodes, r.MaxUses, expires}, err
}

func newGetToken(w IO) *cobra.Command {
	var f tokenFlags
	var output string
	c := &cobra.Command{
		Use:   "gettoken",
		Short: "Make a join token and print it",
		Long:  "Make a join token and print it, and nothing else, on standard output. It is the same as 'keadm token create'.",
		Example: "  keadm gettoken                                       # one node of any name, for 24 hours\n" +
			"  keadm gettoken --node 'shop-*' --uses 50 --ttl 72h   # a batch of nodes",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := progressOf(w, output); err != nil {
				return err
			}
			if err := tokenUsage("", f.request); err != nil {
				return err
			}
			client, err := connect(f.kubeconfig)
			if err != nil {
				return err
			}
			b, made, err := makeToken(c.Context(), w, trust.New(client, w.Now), f.request)
			if err != nil {
				return err
			}
			return show(w.Out, output, made, func(t io.Writer) { fmt.Fprintln(t, b) })
		},
	}
	f.add(c)
	outputFlag(c, &output)
	return c
}

func newTokens(w IO) *cobra.Command {
	create := newGetToken(w)
	create.Use, create.Long, create.Example = "create", "Make a join token and print it, and nothing else, on standard output. It is the same as 'keadm gettoken'.", ""
	return newGroup("token", "Make, list and revoke join tokens", create, newTokenList(w), newTokenRevoke(w))
}

func newTokenList(w IO) *cobra.Command {
	var kubeconfig, output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List join tokens (their secrets are stored nowhere)",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			tokens, err := trust.New(client, w.Now).Tokens(c.Context())
			if err != nil {
				return err
			}
			if tokens == nil {
				tokens = []trust.Token{} // for programs an empty list, not null
			}
			return show(w.Out, output, tokens, func(t io.Writer) {
				row(t, "ID", "NODES", "USES", "EXPIRES")
				for _, x := range tokens {
					most := fmt.Sprint(x.MaxUses)
					if x.MaxUses == 0 {
						most = "any"
					}
					expires := x.Expires.UTC().Format(time.RFC3339)
					if !w.Now().Before(x.Expires) {
						expires += " (expired)"
					}
					row(t, x.ID, x.Nodes, fmt.Sprintf("%d of %s", x.Uses, most), expires)
				}
			})
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	outputFlag(c, &output)
	return c
}

func newTokenRevoke(w IO) *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a join token worthless; nodes that joined with it stay",
		Args:  expects("a token's ID, as 'keadm token list' shows it", cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			if err := trust.New(client, w.Now).RevokeToken(c.Context(), args[0]); err != nil {
				return fmt.Errorf("%w; 'keadm token list' shows what there is", err)
			}
			fmt.Fprintf(w.Out, "revoked %s\n", args[0])
			return nil
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	return c
}
