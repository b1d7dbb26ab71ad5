package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tether-edge/tether/common/backoff"
)

// ServingName is the common name of the endpoint's certificate. The signer of kubelets' certificates wants a node's name;
// that of no node says that one certificate serves them all, and as what it is: it is fit for servers only.
const ServingName = "system:node:tether-cloudcore"

const (
	// servingLife is the life that is asked for; the signer may give another. It is asked again at two thirds of that.
	servingLife = 30 * 24 * time.Hour
	// signTimeout bounds the time in which the cluster signs.
	signTimeout = time.Minute
)

// Serving keeps the endpoint's certificate, by the cluster's own signer of kubelets' certificates
// (kubernetes.io/kubelet-serving): an API server that verifies kubelets (--kubelet-certificate-authority) trusts those. It
// has none where that signer does not sign.
type Serving struct {
	client kubernetes.Interface
	host   string // an IP address or DNS name
	log    *slog.Logger
	now    func() time.Time
	retry  backoff.Config
	cert   atomic.Pointer[tls.Certificate]
}

// NewServing returns one for an endpoint that callers know as host.
func NewServing(client kubernetes.Interface, host string, now func() time.Time, log *slog.Logger) *Serving {
	return &Serving{client: client, host: host, now: now, log: log, retry: backoff.Config{Base: 10 * time.Second, Max: time.Hour}}
}

// Certificate is the cluster's, nil while there is none that is valid.
func (s *Serving) Certificate() *tls.Certificate {
	cert := s.cert.Load()
	if cert == nil || !s.now().Before(cert.Leaf.NotAfter) {
		return nil
	}
	return cert
}

// Start asks for certificates until ctx is done.
func (s *Serving) Start(ctx context.Context) error {
	tries, said := backoff.New(s.retry), ""
	for ctx.Err() == nil {
		cert, err := s.ask(ctx)
		var wait time.Duration
		switch {
		case err == nil:
			s.cert.Store(cert)
			s.log.Info("kubelets are served with a certificate of the cluster", "host", s.host, "until", cert.Leaf.NotAfter)
			wait = cert.Leaf.NotAfter.Sub(s.now()) * 2 / 3
			tries, said = backoff.New(s.retry), ""
		case ctx.Err() != nil:
			return nil
		default:
			// The name of the request is another each time.
			if text := errors.Unwrap(err); text == nil || text.Error() != said {
				if said = ""; text != nil {
					said = text.Error()
				}
				s.log.Warn("the cluster signs no certificate for the kubelets' ports, they are served with one of the edge CA: an API server with --kubelet-certificate-authority refuses that", "error", err)
			}
			wait = tries.Next()
		}
		select {
		case <-time.After(max(wait, time.Second)):
		case <-ctx.Done():
		}
	}
	return nil
}

// ask makes a key, has the cluster sign it, and returns both.
func (s *Serving) ask(ctx context.Context) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	request := &x509.CertificateRequest{Subject: pkix.Name{CommonName: ServingName, Organization: []string{"system:nodes"}}}
	if ip := net.ParseIP(s.host); ip != nil {
		request.IPAddresses = []net.IP{ip}
	} else {
		request.DNSNames = []string{s.host}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
	if err != nil {
		return nil, fmt.Errorf("make a request for %s: %w", s.host, err)
	}
	chain, err := s.sign(ctx, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	cert, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		return nil, fmt.Errorf("use the certificate that the cluster signed: %w", err)
	}
	if err := cert.Leaf.VerifyHostname(s.host); err != nil {
		return nil, fmt.Errorf("use the certificate that the cluster signed: %w", err)
	}
	return &cert, nil
}

// sign has the cluster sign a request, which this CloudCore approves itself. One that is not signed in time is taken back.
func (s *Serving) sign(ctx context.Context, request []byte) ([]byte, error) {
	requests := s.client.CertificatesV1().CertificateSigningRequests()
	csr, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "tether-cloudcore-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{Request: request, SignerName: certificatesv1.KubeletServingSignerName,
			ExpirationSeconds: new(int32(servingLife / time.Second)),
			Usages:            []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make a certificate signing request: %w", err)
	}
	name := csr.Name
	chain, err := s.signed(ctx, csr)
	if err != nil {
		// ctx may be over, and the request is not to stay for ever.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if gone := requests.Delete(ctx, name, metav1.DeleteOptions{}); gone != nil && !apierrors.IsNotFound(gone) {
			err = errors.Join(err, fmt.Errorf("take it back: %w", gone))
		}
		return nil, fmt.Errorf("certificate signing request %s: %w", name, err)
	}
	return chain, nil
}

// errUnsigned: the signer is not there, or does not want to.
var errUnsigned = errors.New("approved, and not signed: expected a signer for " + certificatesv1.KubeletServingSignerName + ", as kube-controller-manager has with --cluster-signing-cert-file")

// signed approves a request and waits for its certificate.
func (s *Serving) signed(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	requests := s.client.CertificatesV1().CertificateSigningRequests()
	approve := func() error {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved,
			Status: corev1.ConditionTrue, Reason: "CloudCore", Message: "the kubelet endpoint of edge nodes"})
		_, err := requests.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
		return err
	}
	err := approve()
	if err != nil && !apierrors.IsConflict(err) {
		return nil, fmt.Errorf("approve: %w", err)
	}
	unsigned := errUnsigned
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		current, err := requests.Get(ctx, csr.Name, metav1.GetOptions{})
		if err != nil && ctx.Err() == nil {
			unsigned = fmt.Errorf("look for its certificate: %w", err)
		}
		if err != nil && ctx.Err() == nil && apierrors.IsNotFound(err) {
			return nil, err
		}
		if err == nil {
			csr, unsigned = current, errUnsigned
			approved, refused := judged(csr)
			switch {
			case len(csr.Status.Certificate) > 0:
				return csr.Status.Certificate, nil
			case refused != "":
				return nil, errors.New(refused)
			case !approved: // somebody else wrote to it first
				if err := approve(); err != nil && !apierrors.IsConflict(err) {
					return nil, fmt.Errorf("approve: %w", err)
				}
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, unsigned
		}
	}
}

// judged says what became of a request; refused is why not, empty if it may still be signed.
func judged(csr *certificatesv1.CertificateSigningRequest) (approved bool, refused string) {
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			return approved, fmt.Sprintf("%s: %s: %s", c.Type, c.Reason, c.Message)
		}
	}
	return approved, ""
}
