package keadm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/common/trust"
)

func newCerts(w IO) *cobra.Command {
	return newGroup("certs", "List and revoke node certificates, and replace the edge CA", newCertsList(w), newCertsRevoke(w), newCertsRotate(w))
}

// certificate is a row of certs list.
type certificate struct {
	trust.Identity
	State string `json:"state"`
}

func newCertsList(w IO) *cobra.Command {
	var kubeconfig, output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the nodes that joined, with their certificates",
		Args:  usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			store := trust.New(client, w.Now)
			ids, err := store.Identities(c.Context())
			if err != nil {
				return err
			}
			revoked, err := store.Revocations(c.Context())
			if err != nil {
				return err
			}
			// A cluster whose CA is lost still has records to show.
			a, err := store.CA(c.Context())
			if err != nil && !errors.Is(err, trust.ErrNoCA) {
				return err
			}
			rows := []certificate{}
			for _, id := range ids {
				rows = append(rows, certificate{id, certificateState(id, a, revoked, w.Now())})
			}
			return show(w.Out, output, rows, func(t io.Writer) {
				row(t, "NODE", "STATE", "ISSUED", "UNTIL", "MACHINE")
				for _, r := range rows {
					row(t, r.Node, r.State, r.Issued.UTC().Format(time.RFC3339), r.Until.UTC().Format(time.RFC3339), fmt.Sprintf("%.12s", r.Machine))
				}
			})
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	outputFlag(c, &output)
	return c
}

// certificateState says what a node's latest certificate is worth. a is nil where there is no CA.
func certificateState(id trust.Identity, a *trust.Authority, revoked trust.Revocations, now time.Time) string {
	standing := trust.Retired
	if a != nil {
		standing = a.Standing(id)
	}
	switch {
	case id.Issued.Before(revoked[id.Node]), !id.Valid(id.Issued):
		return "revoked"
	case standing == trust.Retired:
		return "of a retired CA: must join again"
	case !now.Before(id.Renewable):
		return "expired: must join again"
	case !now.Before(id.Until):
		return "expired"
	case standing == trust.Former:
		return "valid, of a former CA"
	}
	return "valid"
}

func newCertsRevoke(w IO) *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{
		Use:   "revoke NODE",
		Short: "Make a node's certificates worthless: its session ends within seconds",
		Long: "Make every certificate that a node has had so far worthless. Its session ends within seconds, and it can\n" +
			"neither connect nor renew. Its pods keep running: nothing reaches the machine any more. It can join again with a token.",
		Args: expects("a node, as 'keadm certs list' shows it", cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			store := trust.New(client, w.Now)
			id, err := store.Identity(c.Context(), args[0])
			if err != nil {
				return err
			}
			if id == nil {
				return fmt.Errorf("node %q never joined: expected one of those that 'keadm certs list' shows", args[0])
			}
			if _, err := store.Revoke(c.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(w.Out, "revoked the certificates of node %s\n", args[0])
			return nil
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	return c
}

func newCertsRotate(w IO) *cobra.Command {
	var kubeconfig string
	var retire, force bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the edge CA without any edge joining again",
		Long: "Make a new edge CA that all trusted ones vouch for. Edges learn it when they renew their certificates (within a few days);\n" +
			"until then they trust CloudCore by the CA that they know, which signs no certificate of a node any more. Join tokens made\n" +
			"before carry the former CA's hash: those still work.\n\n" +
			"With --retire nothing is made; trust in former CAs ends. That is refused while nodes have certificates of one.\n\n" +
			"With --force it is done nevertheless, and the nodes that it locks out are named: each must join again with a token.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			return rotate(c.Context(), w.Out, trust.New(client, w.Now), retire, force)
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	c.Flags().BoolVar(&retire, "retire", false, "end the trust in former CAs")
	c.Flags().BoolVar(&force, "force", false, "do it although nodes must then join again")
	return c
}

func rotate(ctx context.Context, out io.Writer, store *trust.Store, retire, force bool) error {
	var lost []string
	if retire {
		a, err := store.CA(ctx)
		if err != nil {
			return err
		}
		if !a.HasFormer() {
			fmt.Fprintln(out, "no former edge CA is trusted: there is nothing to retire")
			return nil
		}
		if lost, err = store.RetireCAs(ctx, force); err != nil {
			return err
		}
		fmt.Fprintln(out, "former edge CAs are no longer trusted")
	} else {
		a, locked, err := store.RotateCA(ctx, force)
		if err != nil {
			return err
		}
		lost = locked
		fmt.Fprintf(out, "the edge CA is now %s\nnext:  once 'keadm certs list' shows no node of a former CA, keadm certs rotate --retire\n", a.Pin())
	}
	if len(lost) > 0 {
		fmt.Fprintf(out, "locked out, to join again each with a token (keadm gettoken --node NODE): %s\n", trust.NameSome(lost))
	}
	return nil
}
