package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxPEM bounds the files this package reads.
const maxPEM = 1 << 20

// Save writes the key (mode 0600) and then the certificate (0644). Each file is replaced whole; a reader between the
// two finds a pair that does not match and keeps what it had (see Identity).
func (p Pair) Save(certFile, keyFile string) error {
	if err := WriteFile(keyFile, p.Key, 0o600); err != nil {
		return err
	}
	return WriteFile(certFile, p.Cert, 0o644)
}

// WriteFile replaces path by data, durably and in one step: after a crash the file is the old or the new one. Missing
// directories are made with mode 0755.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func readPEM(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPEM {
		return nil, fmt.Errorf("%s: expected a PEM file of at most %d bytes, found %s of %d bytes", path, maxPEM, info.Mode(), info.Size())
	}
	return os.ReadFile(path)
}

// ReadCertificates reads the certificates in a PEM file, at least one.
func ReadCertificates(path string) ([]*x509.Certificate, error) {
	data, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	certs, err := ParseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %s: %w", path, err)
	}
	return certs, nil
}

// ParseCertificates reads PEM blocks of type CERTIFICATE, at least one. Text between blocks is skipped, as is usual;
// any other block is an error, since it shows that the wrong file was named.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("expected only CERTIFICATE blocks, found %q", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("expected a certificate in PEM (-----BEGIN CERTIFICATE-----), found none")
	}
	return certs, nil
}

// readPair reads a certificate and its key, with Leaf set.
func readPair(certFile, keyFile string) (*tls.Certificate, error) {
	certs, err := ReadCertificates(certFile)
	if err != nil {
		return nil, err
	}
	key, err := readPEM(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	var chain []byte
	for _, c := range certs {
		chain = append(chain, certPEM(c.Raw)...)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("the private key in %s and the certificate in %s (of %q) do not make a pair; copy both from one issue: %w",
			keyFile, certFile, certs[0].Subject, err)
	}
	pair.Leaf = certs[0]
	return &pair, nil
}
