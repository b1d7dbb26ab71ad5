package tunnel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// signer is a cluster's signer of kubelets' certificates, and the API server before it.
type signer struct {
	t      *testing.T
	client *fake.Clientset
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate
	life   time.Duration

	mu sync.Mutex // guards all below
	// deny and sign are what becomes of a request.
	deny, sign bool
	// conflicts is how many approvals lose against another writer.
	conflicts int
	asked     []*x509.CertificateRequest
}

func newSigner(t *testing.T, life time.Duration) *signer {
	t.Helper()
	s := &signer{t: t, client: fake.NewClientset(), life: life, sign: true}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	s.ca = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cluster"}, NotAfter: time.Now().Add(10 * 365 * day), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, s.ca, s.ca, s.key.Public(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	if s.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	s.client.PrependReactor("create", "certificatesigningrequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		csr := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		s.mu.Lock()
		defer s.mu.Unlock()
		csr.Name = fmt.Sprintf("%s%d", csr.GenerateName, len(s.asked))
		block, _ := pem.Decode(csr.Spec.Request)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return true, nil, err
		}
		s.asked = append(s.asked, request)
		return false, nil, nil
	})
	s.client.PrependReactor("update", "certificatesigningrequests", s.judge)
	return s
}

// judge signs what is approved, as kube-controller-manager does.
func (s *signer) judge(a clienttesting.Action) (bool, runtime.Object, error) {
	if a.GetSubresource() != "approval" {
		return false, nil, nil
	}
	csr := a.(clienttesting.UpdateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conflicts > 0 {
		s.conflicts--
		return true, nil, apierrors.NewConflict(certificatesv1.Resource("certificatesigningrequests"), csr.Name, nil)
	}
	if approved, _ := judged(csr); !approved {
		s.t.Errorf("an approval that does not approve: %+v", csr.Status.Conditions)
	}
	switch {
	case s.deny:
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateFailed, Reason: "Policy", Message: "no such names"})
	case s.sign:
		request := s.asked[len(s.asked)-1]
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(int64(len(s.asked))), Subject: request.Subject, IPAddresses: request.IPAddresses,
			DNSNames: request.DNSNames, NotAfter: time.Now().Add(s.life), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, s.ca, request.PublicKey, s.key)
		if err != nil {
			return true, nil, err
		}
		csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return false, nil, nil
}

// serve has host's certificate kept in the background; what it returns is valid inside the bubble of a synctest.
func (s *signer) serve(host string) *Serving {
	serving := NewServing(s.client, host, time.Now, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = serving.Start(ctx) }()
	s.t.Cleanup(func() { cancel(); <-done })
	return serving
}

func (s *signer) becomes(sign, deny bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sign, s.deny = sign, deny
}

func (s *signer) requests() []*x509.CertificateRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func (s *signer) stored() int {
	list, err := s.client.Tracker().List(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"), "")
	if err != nil {
		s.t.Fatal(err)
	}
	return len(list.(*certificatesv1.CertificateSigningRequestList).Items)
}

// TestTheClustersSignerSignsForTheKubeletsPorts: what is asked for is what the signer of kubelets' certificates signs
// (k8s.io/kubernetes pkg/apis/certificates: ValidateKubeletServingCSR), and it is asked for again in time.
func TestTheClustersSignerSignsForTheKubeletsPorts(t *testing.T) {
	for _, host := range []string{"192.0.2.7", "2001:db8::7", "edges.example"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSigner(t, 9*day)
			s.conflicts = 1
			serving := s.serve(host)
			time.Sleep(time.Second) // of the bubble's clock
			synctest.Wait()
			cert := serving.Certificate()
			if cert == nil {
				t.Fatalf("%s: no certificate", host)
			}
			roots := x509.NewCertPool()
			roots.AddCert(s.ca)
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host, CurrentTime: time.Now()}); err != nil {
				t.Errorf("%s: the API server would refuse the certificate: %v", host, err)
			}
			csr, err := s.client.Tracker().Get(certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests"), "", "tether-cloudcore-0")
			if err != nil {
				t.Fatal(err)
			}
			spec := csr.(*certificatesv1.CertificateSigningRequest).Spec
			if want := []certificatesv1.KeyUsage{"digital signature", "server auth"}; spec.SignerName != "kubernetes.io/kubelet-serving" || !reflect.DeepEqual(spec.Usages, want) {
				t.Errorf("asked %s for %v, want kubernetes.io/kubelet-serving for %v", spec.SignerName, spec.Usages, want)
			}
			if r := s.requests()[0]; !reflect.DeepEqual(r.Subject.Organization, []string{"system:nodes"}) || r.Subject.CommonName != ServingName || len(r.DNSNames)+len(r.IPAddresses) != 1 {
				t.Errorf("asked for %v %v %v", r.Subject, r.DNSNames, r.IPAddresses)
			}
			time.Sleep(6*day + time.Hour) // two thirds of its life
			synctest.Wait()
			if next := serving.Certificate(); next == nil || next.Leaf.SerialNumber.Int64() != 2 {
				t.Errorf("%s: no other certificate after two thirds of the first one's life", host)
			}
		})
	}
}

// TestWithoutTheClustersSignerNothingIsLeftBehind: a request that is refused or not signed is taken back, none is served
// that has expired, and the signer is asked again.
func TestWithoutTheClustersSignerNothingIsLeftBehind(t *testing.T) {
	for name, set := range map[string]func(*signer){
		"no signer": func(s *signer) { s.becomes(false, false) },
		"a refusal": func(s *signer) { s.becomes(false, true) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newSigner(t, day)
			set(s)
			serving := s.serve("192.0.2.7")
			time.Sleep(signTimeout + time.Second)
			synctest.Wait()
			if len(s.requests()) == 0 {
				t.Fatalf("%s: nobody was asked", name)
			}
			if serving.Certificate() != nil {
				t.Errorf("%s: there is a certificate", name)
			}
			time.Sleep(day)
			synctest.Wait()
			if n := len(s.requests()); n < 20 || n > 80 {
				t.Errorf("%s: asked %d times in a day, want about once in half an hour", name, n)
			}
			s.becomes(true, false)
			time.Sleep(2 * time.Hour)
			synctest.Wait()
			if serving.Certificate() == nil {
				t.Errorf("%s: none either once the signer signs", name)
			}
			if n := s.stored(); n != 1 {
				t.Errorf("%s: %d requests stand, want the one that was signed", name, n)
			}
			s.becomes(false, false)
			time.Sleep(2 * day)
			synctest.Wait()
			if serving.Certificate() != nil {
				t.Errorf("%s: an expired certificate is served", name)
			}
		})
	}
}
