package keadm

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/common/pki"
)

const (
	defaultDir = "/etc/tether/pki"
	// The names that the configurations have as their defaults.
	serverCert, serverKey = "server.crt", "server.key"
	nodeCert, nodeKey     = "node.crt", "node.key"

	caDays, serverDays, nodeDays = 3650, 3650, 365
)

func newPKI(w IO) *cobra.Command {
	c := &cobra.Command{
		Use:   "pki",
		Short: "Make and show the certificates of the link",
		Args:  usage(cobra.NoArgs),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newPKIInit(w), newPKIIssue(w), newPKIShow(w))
	return c
}

func days(n int) time.Duration { return time.Duration(n) * 24 * time.Hour }

func newPKIInit(w IO) *cobra.Command {
	var dir string
	var addresses []string
	c := &cobra.Command{
		Use:   "init --advertise-address ADDRESS...",
		Short: "Make the edge CA and CloudCore's server certificate",
		Long: "Make the edge CA, if the directory has none, and a new server certificate for CloudCore.\n" +
			"A CA that is there stays: nodes that it vouched for remain known.",
		Args: usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if len(addresses) == 0 {
				return fmt.Errorf("%w: expected at least one --advertise-address: the DNS name or IP address that edges dial", errUsage)
			}
			return initPKI(w, dir, addresses)
		},
	}
	c.Flags().StringVar(&dir, "dir", defaultDir, "directory of the CA and the server certificate")
	c.Flags().StringSliceVar(&addresses, "advertise-address", nil, "DNS name or IP address of CloudCore; repeat for more")
	return c
}

func initPKI(w IO, dir string, addresses []string) error {
	ca, err := pki.LoadCA(dir, w.Now)
	switch {
	case err == nil:
		fmt.Fprintf(w.Out, "kept   the edge CA in %s\n", dir)
	case errors.Is(err, fs.ErrNotExist):
		if ca, err = pki.NewCA("tether edge CA", days(caDays), w.Now); err != nil {
			return err
		}
		// Save refuses a directory that has one of the two files.
		if err := ca.Save(dir); err != nil {
			return err
		}
		fmt.Fprintf(w.Out, "made   the edge CA in %s; keep %s secret\n", dir, filepath.Join(dir, pki.CAKeyFile))
	default:
		return err
	}
	pair, err := ca.IssueServer(addresses, days(serverDays))
	if err != nil {
		return err
	}
	if err := pair.Save(filepath.Join(dir, serverCert), filepath.Join(dir, serverKey)); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "made   %s for %s\n", filepath.Join(dir, serverCert), strings.Join(addresses, ", "))
	fmt.Fprintf(w.Out, "next:  keadm pki issue-node NAME --dir %s --out DIRECTORY\n", dir)
	return nil
}

func newPKIIssue(w IO) *cobra.Command {
	var dir, out string
	c := &cobra.Command{
		Use:   "issue-node NAME --out DIRECTORY",
		Short: "Issue the certificate that is an edge node's identity",
		Args:  usage(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" {
				return fmt.Errorf("%w: expected --out: the directory for %s, %s and %s", errUsage, pki.CACertFile, nodeCert, nodeKey)
			}
			return issueNode(w, dir, out, args[0])
		},
	}
	c.Flags().StringVar(&dir, "dir", defaultDir, "directory of the CA")
	c.Flags().StringVar(&out, "out", "", "directory for the node's files")
	return c
}

func issueNode(w IO, dir, out, name string) error {
	ca, err := pki.LoadCA(dir, w.Now)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; make the CA with 'keadm pki init --dir %s', or name its directory with --dir", err, dir)
	}
	if err != nil {
		return err
	}
	pair, err := ca.IssueNode(name, days(nodeDays))
	if err != nil {
		return err
	}
	if err := pair.Save(filepath.Join(out, nodeCert), filepath.Join(out, nodeKey)); err != nil {
		return err
	}
	if err := pki.WriteFile(filepath.Join(out, pki.CACertFile), ca.CertPEM(), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(w.Out, "made   %s, %s and %s in %s for node %s, valid for %d days\n", pki.CACertFile, nodeCert, nodeKey, out, name, nodeDays)
	fmt.Fprintf(w.Out, "next:  copy them to %s on the node and start edgecore there\n", defaultDir)
	return nil
}

func newPKIShow(w IO) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use:   "show [FILE...]",
		Short: "Show certificates: whose, from whom, for how long",
		RunE: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				found, err := filepath.Glob(filepath.Join(dir, "*.crt"))
				if err != nil {
					return fmt.Errorf("%w: --dir: %w", errUsage, err)
				}
				if len(found) == 0 {
					return fmt.Errorf("show certificates: expected *.crt in %s, found none: name files, or their directory with --dir", dir)
				}
				files = found
			}
			return show(w, files)
		},
	}
	c.Flags().StringVar(&dir, "dir", defaultDir, "directory to show when no file is named")
	return c
}

// show prints every certificate that can be read; the error names the files that cannot, and those out of their time.
func show(w IO, files []string) error {
	var errs []error
	for _, f := range files {
		certs, err := pki.ReadCertificates(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, c := range certs {
			if err := showOne(w, f, c); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func showOne(w IO, file string, c *x509.Certificate) error {
	left, state := c.NotAfter.Sub(w.Now()), ""
	switch {
	case left < 0:
		state = "EXPIRED"
	case w.Now().Before(c.NotBefore):
		state = "NOT YET VALID"
	default:
		state = fmt.Sprintf("%d days left", int(left.Hours()/24))
	}
	fmt.Fprintf(w.Out, "%s\n  subject  %s\n  issuer   %s\n  role     %s\n  valid    %s to %s (%s)\n", file, c.Subject, c.Issuer,
		role(c), c.NotBefore.UTC().Format(time.DateTime), c.NotAfter.UTC().Format(time.DateTime), state)
	if left < 0 || w.Now().Before(c.NotBefore) {
		return fmt.Errorf("%s: the certificate of %q is %s by this machine's clock (%s UTC): issue a new one, or set the clock",
			file, c.Subject, strings.ToLower(state), w.Now().UTC().Format(time.DateTime))
	}
	return nil
}

func role(c *x509.Certificate) string {
	if c.IsCA {
		return "certificate authority"
	}
	if name, err := pki.NodeName(c); err == nil {
		return "edge node " + name
	}
	names := c.DNSNames
	for _, ip := range c.IPAddresses {
		names = append(names[:len(names):len(names)], ip.String())
	}
	if len(names) > 0 {
		return "server for " + strings.Join(names, ", ")
	}
	return "none that Tether knows"
}
