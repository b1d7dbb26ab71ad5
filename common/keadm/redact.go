package keadm

import (
	"encoding/base64"
	"net/url"
	"regexp"
	"strings"
)

// masked stands where a secret was.
const masked = "***"

// secrets are the forms in which credentials turn up in configurations, logs and error messages. What they mask in
// vain (the name of a Secret, say) costs a reader little.
var secrets = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`), masked},
	// The end of a key whose beginning was cut off.
	{regexp.MustCompile(`(?:[A-Za-z0-9+/=]{4,}(?:\\n|\s)+)*-----END [A-Z0-9 ]*PRIVATE KEY-----`), masked},
	// PEM that was encoded once more, as kubeconfigs and Secrets have it.
	{regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]*`), masked},
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#"'<>]*@`), "${1}" + masked + "@"},
	{regexp.MustCompile(`\b([0-9a-f]{64}\.[a-z2-7]{8}\.)[^\s"'.,;)]{8,}`), "${1}" + masked}, // a join token
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){1,2}`), masked},         // a JSON web token
	{regexp.MustCompile(`(?i)(authorization["']?\s*[:=]\s*["'\[]*)(?:[a-z]+\s+)?[^\s"',;\]]+`), "${1}" + masked},
	{regexp.MustCompile(`(?i)\b((?:basic|bearer)\s+)[A-Za-z0-9+/=._~-]{8,}`), "${1}" + masked},
	{regexp.MustCompile(`(?i)((?:passw|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|key-data)[\w-]*\\?["']?\s*[:=]\s*)(?:\\?"[^"]*"|'[^']*'|[^\s,;&}\])]+)`), "${1}" + masked},
}

// redactor masks secrets in text.
type redactor struct {
	// known are secrets of this machine, masked wherever they are.
	known []string
}

// knowProxy makes the password of a proxy's URL known, in the forms in which it travels.
func (r *redactor) knowProxy(setting string) {
	u, err := url.Parse(setting)
	if err != nil || u.User == nil {
		return
	}
	password, _ := u.User.Password()
	_, written, _ := strings.Cut(u.User.String(), ":")
	for _, s := range []string{password, written, base64.StdEncoding.EncodeToString([]byte(u.User.Username() + ":" + password))} {
		if len(s) > 3 { // a shorter one would mask half of all words
			r.known = append(r.known, s)
		}
	}
}

func (r redactor) text(s string) string {
	for _, known := range r.known {
		s = strings.ReplaceAll(s, known, masked)
	}
	for _, x := range secrets {
		s = x.form.ReplaceAllString(s, x.with)
	}
	return s
}
