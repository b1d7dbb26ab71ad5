package keadm

import (
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
			rows := []certificate{}
			for _, id := range ids {
				state := "valid"
				switch at, ok := revoked[id.Node]; {
				case ok && id.Issued.Before(at):
					state = "revoked"
				case !w.Now().Before(id.Until):
					state = "expired"
				}
				rows = append(rows, certificate{id, state})
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

func newCertsRevoke(w IO) *cobra.Command {
	var kubeconfig string
	c := &cobra.Command{
		Use:   "revoke NODE",
		Short: "Make a node's certificates worthless: its session ends within seconds",
		Long: "Make every certificate that a node has had so far worthless. Its session ends within seconds, and it can\n" +
			"neither connect nor renew. Its pods keep running: nothing reaches the machine any more. It can join again with a token.",
		Args: usage(cobra.ExactArgs(1)),
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
	var retire bool
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the edge CA without any edge joining again",
		Long: "Make a new edge CA that the present one vouches for. Edges learn it when they renew their certificates (within a few days);\n" +
			"until then they trust CloudCore by the former CA, which signs nothing more. Join tokens made before carry the former\n" +
			"CA's hash: those still work.\n\n" +
			"With --retire nothing is made; trust in former CAs ends. Edges that have not renewed since must join again.",
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := connect(kubeconfig)
			if err != nil {
				return err
			}
			store := trust.New(client, w.Now)
			if retire {
				if err := store.RetireCAs(c.Context()); err != nil {
					return err
				}
				fmt.Fprintln(w.Out, "former edge CAs are no longer trusted")
				return nil
			}
			a, err := store.RotateCA(c.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(w.Out, "the edge CA is now %s\nnext:  once every edge has renewed ('keadm certs list': issued after now), keadm certs rotate --retire\n", a.Pin())
			return nil
		},
	}
	kubeconfigFlag(c, &kubeconfig)
	c.Flags().BoolVar(&retire, "retire", false, "end the trust in former CAs")
	return c
}
