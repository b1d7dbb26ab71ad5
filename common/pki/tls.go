package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// ServerName is what every CloudCore's certificate says it is. Edges ask for this name whatever address they dial, so
// that a CloudCore may move or be added without any certificate being made anew.
const ServerName = "tether-cloudcore"

// A Presenter has the certificate to show at the next handshake.
type Presenter interface{ Certificate() *tls.Certificate }

// Roots has the authorities to trust at the next handshake.
type Roots interface{ Pool() *x509.CertPool }

// ServerTLS returns the hub's configuration: TLS 1.3, a client certificate from one of clients required. Files that
// changed are taken up at the next handshake. Sessions are not resumed, so that every connection proves its identity
// against the authorities of the moment.
func ServerTLS(id Presenter, clients Roots, now Clock) *tls.Config {
	base := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		Time:                   now,
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.Certificate(), nil },
	}
	outer := base.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = clients.Pool()
		return c, nil
	}
	return outer
}

// ClientTLS returns the edge's configuration for one dial: TLS 1.3, the server's certificate must be for serverName (a
// DNS name or an IP address) and from one of roots. Build it anew for each dial, so that changed files are taken up.
func ClientTLS(id Presenter, roots Roots, serverName string, now Clock) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots.Pool(),
		ServerName: serverName,
		Time:       now,
		// Without this hook Go withholds a certificate whose issuer the server did not name, and the server could only
		// say "certificate required" where it could say "unknown authority".
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.Certificate(), nil },
	}
}

// What Explain tells apart. The error it returns matches one of these with errors.Is.
var (
	// ErrExpired: a certificate is outside its time by the clock of whoever checked it.
	ErrExpired = errors.New("certificate outside its time")
	// ErrUntrusted: a certificate is from an authority that is not in the CA file.
	ErrUntrusted = errors.New("certificate from an unknown authority")
	// ErrWrongName: the server's certificate is for other names or addresses.
	ErrWrongName = errors.New("certificate for another name")
	// ErrRefused: the peer refused our certificate.
	ErrRefused = errors.New("certificate refused by the peer")
)

// Explain puts a failed TLS handshake into words: what was expected, what was found, and how to mend it. An error that
// is not about certificates, nil included, is returned as it is. now is the clock of the tls.Config.
func Explain(err error, now Clock) error {
	var (
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if told := checkTime(invalid.Cert, now()); told != nil {
			return fmt.Errorf("%w: %w", told, err)
		}
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: the certificate of %q was issued by %q, which is not in the CA file: "+
			"the CA file is not this peer's, or another machine answers at this address: %w",
			ErrUntrusted, unknown.Cert.Subject, unknown.Cert.Issuer, err)
	case errors.As(err, &name):
		return fmt.Errorf("%w: dialled %s, the server's certificate is for %s: issue it again with that name or address: %w",
			ErrWrongName, name.Host, strings.Join(hosts(name.Certificate), ", "), err)
	case errors.As(err, &op) && op.Op == "remote error":
		return refused(op, err)
	}
	return err
}

func hosts(c *x509.Certificate) []string {
	h := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		h = append(h, ip.String())
	}
	if len(h) == 0 {
		return []string{"no name at all"}
	}
	return h
}

// refused reads the alert with which the peer closed. Go keeps the alert's type to itself, so its text must do.
func refused(op *net.OpError, err error) error {
	alert := op.Err.Error()
	switch {
	case strings.Contains(alert, "expired certificate"):
		return fmt.Errorf("%w: %w: it is outside its time by the peer's clock: issue a new one, or set the peer's clock: %w", ErrRefused, ErrExpired, err)
	case strings.Contains(alert, "unknown certificate authority"):
		return fmt.Errorf("%w: %w: the peer's CA file does not hold the authority that issued it: %w", ErrRefused, ErrUntrusted, err)
	case strings.Contains(alert, "certificate"):
		return fmt.Errorf("%w: expected a client certificate for this cluster's edge CA: %w", ErrRefused, err)
	}
	return err
}

// checkTime returns nil or an error that matches ErrExpired.
func checkTime(c *x509.Certificate, now time.Time) error {
	what := "has expired"
	switch {
	case now.Before(c.NotBefore):
		what = "is not valid yet"
	case !now.After(c.NotAfter):
		return nil
	}
	return fmt.Errorf("%w: the certificate of %q is valid from %s to %s and this machine's clock says %s, so it %s: "+
		"set the clock if it is wrong, else issue a new certificate",
		ErrExpired, c.Subject, stamp(c.NotBefore), stamp(c.NotAfter), stamp(now), what)
}
