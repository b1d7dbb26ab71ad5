package twins

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tether-edge/tether/apis/devices/v1beta1"
)

// steps are what may happen, and how likely it is.
var steps = []struct {
	weight int
	do     func(*trial)
}{
	{20, (*trial).edit},
	{20, (*trial).turn},
	{8, (*trial).desire},
	{8, (*trial).call},
	{3, (*trial).touch},
	{1, (*trial).touchModel},
	{2, (*trial).anew},
	{2, (*trial).move},
	{3, (*trial).dropClient},
	{4, (*trial).cutLink},
	{3, (*trial).stallLink},
	{2, (*trial).shortLink},
	{4, (*trial).restartCloud},
	{4, (*trial).restartEdge},
	{5, (*trial).cutPower},
	{4, (*trial).restartMapper},
}

// step does one thing that the dice choose.
func (x *trial) step() {
	all := 0
	for _, s := range steps {
		all += s.weight
	}
	for n, i := x.random.IntN(all), 0; ; i++ {
		if n -= steps[i].weight; n < 0 {
			steps[i].do(x)
			return
		}
	}
}

func (x *trial) item() *item { return x.items[x.random.IntN(len(x.items))] }

// ofMapper is an item of the mapper, which says everything again when it is told of a device anew: a client of MQTT does not know when.
func (x *trial) ofMapper() *item { return x.items[x.random.IntN(devicesOfMapper)] }

func (x *trial) settable() string { return settable[x.random.IntN(len(settable))] }

// edit changes a desired value in the cloud.
func (x *trial) edit() {
	i, property, value := x.item(), x.settable(), x.values.next()
	index := map[string]int{"mode": 1, "set": 2}[property]
	x.patch(v1beta1.DeviceResource, i.name, fmt.Sprintf(`[{"op":"replace","path":"/spec/properties/%d/desired/value","value":%q}]`, index, value))
	i.wishes[property].edit(value)
	x.note("cloud: %s %s=%s", i, property, value)
}

// touch changes a Device in a way that means nothing to its twin.
func (x *trial) touch() {
	i := x.item()
	x.patch(v1beta1.DeviceResource, i.name, fmt.Sprintf(`[{"op":"add","path":"/metadata/labels","value":{"touched":%q}}]`, x.values.next()))
	x.note("cloud: %s is touched", i)
}

func (x *trial) touchModel() {
	x.patch(v1beta1.DeviceModelResource, "of-"+protocol, fmt.Sprintf(`[{"op":"replace","path":"/spec/properties/0/maximum","value":"1%06d"}]`, x.random.IntN(1000000)))
	x.note("cloud: the model of the mapper's devices is another")
}

// anew deletes a Device and makes another one of the name.
func (x *trial) anew() {
	i := x.ofMapper()
	if err := x.kind(x.namespace, v1beta1.DeviceResource).Delete(x.t.Context(), i.name, metav1.DeleteOptions{}); err != nil {
		x.t.Fatal(err)
	}
	i.node = x.node
	i.thing.forgive() // who calls again calls another device
	x.makeDevice(i)
	x.note("cloud: %s is made anew, mode=%s set=%s, uid %s", i, i.wishes["mode"], i.wishes["set"], i.uid)
}

// move takes a Device away from the node, or brings it back.
func (x *trial) move() {
	i := x.ofMapper()
	if i.node == x.node {
		i.node = "elsewhere"
	} else {
		i.node = x.node
	}
	x.place(i)
}

func (x *trial) place(i *item) {
	x.patch(v1beta1.DeviceResource, i.name, fmt.Sprintf(`[{"op":"replace","path":"/spec/nodeName","value":%q}]`, i.node))
	if i.node != x.node {
		for _, w := range i.wishes { // the edge forgets what it desired, if it hears of it
			w.may[w.cloud] = true
		}
		i.thing.forgive() // the cloud's value may come back
	}
	i.births++
	x.note("cloud: %s is at %s", i, i.node)
}

// turn is a change by a device itself.
func (x *trial) turn() {
	i, value := x.item(), x.values.next()
	if i.client != nil {
		i.client.turn("flow", value)
	} else {
		i.thing.turn("flow", value)
	}
	x.note("device: %s flow=%s", i, value)
}

// desire is what somebody at the site wants, by MQTT. Now and then the edge goes while it is being asked.
func (x *trial) desire() {
	i, property, value := x.item(), x.settable(), x.values.next()
	r := x.edge.now()
	if r == nil {
		return
	}
	w := i.wishes[property]
	x.site++
	client := fmt.Sprint("site-", x.site)
	conn, err := connect(x.broker, client, true, nil)
	if err != nil {
		x.note("site: %s %s=%s: %v", i, property, value, err)
		return
	}
	defer conn.Disconnect(0)
	if err := conn.subscribe(topicOf(x.namespace, i.name, "twin/update/result")); err != nil {
		x.note("site: %s %s=%s: %v", i, property, value, err)
		return
	}
	before := x.known(i, property)
	type result struct {
		payload
		error
	}
	answered := make(chan result, 1)
	go func() {
		p, err := conn.ask(topicOf(x.namespace, i.name, "twin/update"), payload{EventID: client, Twin: map[string]twinPart{property: {Expected: &valuePart{value}}}})
		answered <- result{p, err}
	}()
	switch x.random.IntN(6) {
	case 0:
		x.cutPower()
	case 1:
		x.restartEdge()
	}
	var answer result
	select {
	case answer = <-answered:
	case <-time.After(30 * time.Second):
		x.t.Fatalf("site: %s %s=%s has no answer", i, property, value)
	}
	outcome := accepted
	switch {
	case answer.error != nil:
		outcome = unknown
	case answer.Code == 500: // it could not be kept, or nobody could say whether it was
		outcome = unknown
	case answer.Code != 0:
		outcome = refused
	}
	after := x.known(i, property)
	w.desire(value, outcome, before, after)
	x.note("site: %s %s=%s: answered %d %s %v; the edge knew %q and then %q of the cloud's %q: it may be %s", i, property, value, answer.Code, answer.Reason, answer.error, before, after, w.cloud, w)
}

// known is what the edge knows of the cloud's desired value.
func (x *trial) known(i *item, property string) string {
	v, ok := x.edge.view(i.name, x.namespace)
	switch {
	case !ok || v.Properties[property] == nil || v.Properties[property].Cloud == nil:
		return ""
	case string(v.Device.UID) != i.uid:
		return stale
	}
	return v.Properties[property].Cloud.Value
}

func (x *trial) dropClient() {
	i := x.items[devicesOfMapper+x.random.IntN(devicesOfMQTT)]
	i.client.drop()
	x.note("%s loses its connection", i)
}

func (x *trial) relink() bool {
	if x.linked {
		return false
	}
	x.proxy.SetBudget(nil)
	x.proxy.SetSilent(false)
	x.proxy.Cut()
	x.linked = true
	x.note("link: joined")
	return true
}

func (x *trial) cutLink() {
	if x.relink() {
		return
	}
	x.proxy.SetSilent(true)
	x.proxy.Cut()
	x.linked = false
	x.note("link: cut")
}

func (x *trial) stallLink() {
	if x.relink() {
		return
	}
	x.proxy.SetSilent(true)
	x.linked = false
	x.note("link: stalls")
}

// shortLink cuts each connection after some bytes.
func (x *trial) shortLink() {
	if x.relink() {
		return
	}
	n := int64(8000 + x.random.IntN(30000))
	x.proxy.SetBudget(func() int64 { return n })
	x.proxy.Cut()
	x.linked = false
	x.note("link: each connection carries %d bytes", n)
}

func (x *trial) restartCloud() {
	if x.cloud.stop == nil {
		x.cloud.start()
		x.note("cloud: starts")
		return
	}
	x.cloud.end()
	if x.random.IntN(2) == 0 {
		x.note("cloud: is down")
		return
	}
	x.cloud.start()
	x.note("cloud: restarts")
}

func (x *trial) restartEdge() {
	if x.edge.now() == nil {
		x.edge.start()
		x.note("edge: starts")
		return
	}
	x.edge.end()
	x.edgeIsDown("stopped")
}

func (x *trial) cutPower() {
	if x.edge.now() == nil {
		x.edge.start()
		x.note("edge: starts")
		return
	}
	x.edge.cutPower(x.random)
	x.edgeIsDown("without power")
}

func (x *trial) edgeIsDown(how string) {
	if x.random.IntN(3) == 0 {
		x.note("edge: is %s", how)
		return
	}
	x.edge.start()
	x.note("edge: was %s, and starts", how)
}

func (x *trial) restartMapper() {
	if x.sim.stop == nil {
		x.sim.start()
		x.note("mapper: starts")
		return
	}
	x.sim.end()
	if x.random.IntN(2) == 0 {
		x.note("mapper: is down")
		return
	}
	x.sim.start()
	x.note("mapper: restarts")
}

// heal ends all trouble.
func (x *trial) heal() {
	x.relink()
	if x.cloud.stop == nil {
		x.restartCloud()
	}
	if x.edge.now() == nil {
		x.restartEdge()
	}
	if x.sim.stop == nil {
		x.restartMapper()
	}
	for _, i := range x.items {
		if i.node != x.node {
			i.node = x.node
			x.place(i)
		}
	}
}
