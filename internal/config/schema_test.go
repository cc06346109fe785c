package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write config-schema.json anew")

// schemaFile describes the file to editors.
const schemaFile = "../../config-schema.json"

// The published schema is that of the table of settings.
func TestSchemaIsUpToDate(t *testing.T) {
	var now bytes.Buffer
	to := json.NewEncoder(&now)
	to.SetEscapeHTML(false)
	to.SetIndent("", "  ")
	if err := to.Encode(schema()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, now.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if old, err := os.ReadFile(schemaFile); err != nil || !bytes.Equal(old, now.Bytes()) {
		t.Errorf("config-schema.json is out of date (%v): go test ./internal/config -run Schema -update", err)
	}
}

type object = map[string]any

const (
	schemaName     = `^[A-Za-z][A-Za-z0-9_-]{0,62}$`
	schemaDuration = `([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|ms|s|m|h)`
	schemaAmount   = `[0-9]+(\.[0-9]+)?([KMGTP]i?)?B?`
	schemaVariable = `\$\{[A-Za-z_][A-Za-z0-9_]*\}` // it may become anything
)

// schema describes a whole file. Draft 7 is what editors know best.
func schema() object {
	top := schemaOf(topKey, false)
	top["services"] = object{
		"description": "the services by their names", "type": "object", "minProperties": 1, "maxProperties": servicesMost,
		"propertyNames": object{"pattern": schemaName}, "additionalProperties": object{"$ref": "#/definitions/service"},
	}
	top["defaults"] = object{
		"description": "what holds for every service that says nothing else", "type": "object",
		"properties": schemaOf(defaultsKey, true), "additionalProperties": false,
	}
	top["groups"] = object{
		"description": "budgets that services share", "type": "object", "maxProperties": groupsMost,
		"propertyNames": object{"pattern": schemaName}, "additionalProperties": object{"$ref": "#/definitions/group"},
	}
	return object{
		"$schema": "http://json-schema.org/draft-07/schema#", "title": "tiproxy's configuration file", "type": "object",
		"properties": top, "required": []string{"services"}, "additionalProperties": false,
		"if":   object{"not": object{"required": []string{"defaults"}, "properties": object{"defaults": mayInherit()}}},
		"then": object{"properties": object{"services": object{"additionalProperties": object{"anyOf": []any{object{"required": []string{"dest"}}, mayInherit()}}}}},
		"definitions": object{
			"service": object{"type": "object", "properties": schemaOf(serviceKey, true), "required": []string{"exec"}, "additionalProperties": false},
			"group": object{
				"description": "how many of its services may be awake at once, and amounts that people name", "type": "object",
				"properties": schemaOf(groupKey, false), "minProperties": 1, "maxProperties": amountsMost + len(names(groupKey)),
				"propertyNames": object{"pattern": schemaName}, "additionalProperties": either(schemaAmount, object{"type": "number", "exclusiveMinimum": 0}),
			},
		},
	}
}

// mayInherit are settings with which there may be no dest.
func mayInherit() object {
	return object{"required": []string{"path"}, "properties": object{"path": object{"not": object{"enum": []any{string(PathCopy), string(PathDirect), string(PathAuto), nil}}}}}
}

// schemaOf describes the settings of one place. null undoes a default.
func schemaOf(place scope, null bool) object {
	all := object{}
	for _, s := range within(place) {
		one := schemaOne(s)
		if (null || place == topKey) && s.Name != "exec" {
			one["anyOf"] = append(one["anyOf"].([]any), object{"type": "null"})
		}
		one["description"] = s.FileUsage()
		if s.Default != "" && !s.Repeats() {
			one["default"] = s.Default
		}
		all[s.Name] = one
	}
	return all
}

func schemaOne(s Setting) object {
	value := schemaValue(s)
	if !s.Repeats() {
		return value
	}
	shapes := append(value["anyOf"].([]any), object{"type": "array", "items": value})
	if s.Kind == Pairs {
		pairs := object{"type": "object", "additionalProperties": schemaText()}
		if s.Name == "uses" {
			pairs["additionalProperties"] = either(schemaAmount, object{"type": "number", "minimum": 0})
		}
		shapes = append(shapes, pairs)
	}
	return object{"anyOf": shapes}
}

// schemaValue describes one value.
func schemaValue(s Setting) object {
	whole := func(least int) object { return object{"type": "integer", "minimum": least} }
	switch s.Kind {
	case Address:
		right := `unix:/.+|.*:([0-9]+|\{port\})`
		if s.Name == "admin" {
			right = AdminOff + "|" + right
		}
		return either(right)
	case Duration:
		return either(`0|(`+schemaDuration+`)+`, object{"const": 0})
	case Count:
		return either(`0*[1-9][0-9]*`, whole(1))
	case Number:
		return either(`[0-9]+`, whole(0))
	case Frequency:
		return either(`0*[1-9][0-9]*/(` + schemaDuration + `)+`)
	case Size:
		return either(`0|[0-9]+(\.[0-9]+)?([KMGTP]i?B?|B)`, object{"const": 0})
	case Word:
		return object{"anyOf": []any{object{"enum": s.Words}, object{"type": "string", "pattern": schemaVariable}}}
	case Names:
		return either(schemaName[1 : len(schemaName)-1])
	case Networks:
		return either(`[^,]+(,[^,]+)*`)
	case Pairs:
		return either(`[^=]+=(.|\n)*`)
	}
	return schemaText()
}

// either is text of a pattern, something else, or text that a variable is part of.
func either(pattern string, other ...any) object {
	text := object{"type": "string", "pattern": "^(" + pattern + ")$|" + schemaVariable}
	return object{"anyOf": append([]any{text}, other...)}
}

// schemaText is any text. What YAML takes for a number or a truth is text, too.
func schemaText() object {
	return object{"anyOf": []any{object{"type": []string{"string", "number", "boolean"}}}}
}
