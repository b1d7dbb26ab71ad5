package keadm

import (
	"strings"
	"testing"
)

func TestSecretsAreMaskedInEachForm(t *testing.T) {
	pin := strings.Repeat("0a", 32)
	var r redactor
	r.knowProxy("http://user:pa%2Fs5w0rd@proxy:3128")
	for name, c := range map[string]struct{ text, want string }{
		"the proxy's password":        {"dial: pa/s5w0rd and pa%2Fs5w0rd", "dial: *** and ***"},
		"the proxy's header":          {"x dXNlcjpwYS9zNXcwcmQ= y", "x *** y"},
		"a URL":                       {`proxy: "http://a:b@proxy:1/x", wss://c@d`, `proxy: "http://***@proxy:1/x", wss://***@d`},
		"a join token":                {"join --token " + pin + ".abcdefgh.ijklmnopqrstuvwx234567 x", "join --token " + pin + ".abcdefgh.*** x"},
		"a web token":                 {"got eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2ln, sent", "got ***, sent"},
		"a header":                    {`Authorization: Basic dXNlcjpwYXNz and "Proxy-Authorization": ["Digest abcdefghijk"]`, `Authorization: *** and "Proxy-Authorization": ["***"]`},
		"a scheme alone":              {"sent Bearer abcdefghijk.l", "sent Bearer ***"},
		"a field":                     {`password=a, DB_PASSWORD: b "apiKey":"c d" secretAccessKey='e' {token: f}`, `password=***, DB_PASSWORD: *** "apiKey":*** secretAccessKey=*** {token: ***}`},
		"a field in a string of JSON": {`{"msg":"set \"token\":\"abc\" x"}`, `{"msg":"set \"token\":*** x"}`},
		"a private key":               {"a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\nAQEE\n-----END EC PRIVATE KEY-----\nb", "a\n***\nb"},
		"one on a line":               {`key="-----BEGIN PRIVATE KEY-----\nMHcC\n-----END PRIVATE KEY-----\n"`, `key="***\n"`},
		"one without an end":          {"a\n-----BEGIN PRIVATE KEY-----\nMHcC", "a\n***"},
		"one without a beginning":     {"AQEEMHcC\nMHcCAQEE\n-----END PRIVATE KEY-----\nb", "***\nb"},
		"one of a kubeconfig":         {"client-key-data: LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0t", "client-key-data: ***"},
		"PEM in base64":               {"x LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0tCg== y", "x *** y"},
		"a certificate is none":       {"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"},
		"an ordinary line":            {`time=2030-06-01T12:00:00Z level=WARN msg="link is down" part=link server=10.0.0.1:10000 error="dial tcp 10.0.0.1:10000: connect: no route to host"`, ""},
		"a metric":                    {`tether_link_connects_total{protocol="quic"} 3`, ""},
		"an address":                  {"dial https://cloud.example:10002/tether/v1/ca: mail to a@b", ""},
	} {
		if c.want == "" {
			c.want = c.text
		}
		if got := r.text(c.text); got != c.want {
			t.Errorf("%s:\n%s\nbecame\n%s\nexpected\n%s", name, c.text, got, c.want)
		}
	}
}
