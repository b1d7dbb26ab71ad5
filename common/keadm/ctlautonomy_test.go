package keadm

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStatusSaysHowLongTheNodeCanGoOnAlone(t *testing.T) {
	const certificate = `{"cause":"CertificateEnds","effect":"cannot-return","subject":"the node's certificate","until":"2030-08-30T12:00:00Z","detail":"it is valid until then","advice":"leave the link up"}`
	const missing = `{"cause":"ImageMissing","effect":"stops-pods","subject":"pod a/b, image h/x","now":true,"advice":"import it"},` +
		`{"cause":"ImageMissing","effect":"stops-pods","subject":"pod a/c, image h/x","now":true,"advice":"import it"}`
	for name, c := range map[string]struct{ status, want string }{
		"well": {`{"enough":true,"until":"2030-08-30T12:00:00Z","limits":[` + certificate + `,{"cause":"LogsCanFill","effect":"a-newer-one","subject":"/d","advice":"add space"}]}`,
			"autonomy     the node can go on alone until 2030-08-30 12:00:00 UTC (90 days left)\n" +
				"             2030-08-30 12:00:00 UTC (90 days left): CertificateEnds: the node's certificate: the node cannot come back by itself; it is valid until then; leave the link up\n" +
				"             at any time: LogsCanFill: /d: a-newer-one; add space\n"},
		"short": {`{"enough":false,"until":"2030-06-01T15:00:00Z","limits":[]}`, "until 2030-06-01 15:00:00 UTC (3h left), which is less than autonomy.atLeast\n"},
		"over": {`{"enough":false,"now":true,"limits":[` + missing + `,` + certificate + `],"unread":["disks: no"]}`,
			"autonomy     has ended already: what is listed first does not go on alone\n             now: ImageMissing: pod a/b, image h/x, pod a/c, image h/x: stops pods; import it\n" +
				"             2030-08-30 12:00:00 UTC (90 days left): CertificateEnds: "},
		"endless": {`{"enough":true,"limits":[],"unread":["disks: no"]}`, "autonomy     nothing is known that ends it\n             not judged: disks: no\n"},
	} {
		files, _ := atGateway(t, strings.Replace(allWell, `"store":{}`, `"autonomy":`+c.status+`,"store":{}`, 1), func(w http.ResponseWriter, _ *http.Request) {
			answerWith(t, w, corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}})
		})
		code, out, _ := call(t, today, "ctl", "status", "--config", files.config)
		if code != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%s: exit %d, expected\n%s\nin\n%s", name, code, c.want, out)
		}
		var s gatewayStatus
		if err := json.Unmarshal([]byte(do(t, "ctl", "status", "--config", files.config, "-o", "json")), &s); err != nil || s.Autonomy == nil || len(s.Autonomy.Limits) != strings.Count(c.status, `"cause"`) {
			t.Errorf("%s: for programs: %+v, %v", name, s.Autonomy, err)
		}
	}
}
