use std::fs;

use serde_json::{Value as Json, json};

use super::*;

fn template(source: &str) -> ChatTemplate {
    let tokens = [("eos_token".to_owned(), json!("</s>"))]
        .into_iter()
        .collect();
    ChatTemplate::new(Templates::One(source.to_owned()), tokens).unwrap()
}

fn variables(value: Json) -> Map<String, Json> {
    value.as_object().unwrap().clone()
}

fn render(source: &str, messages: &[Message]) -> Result<String, Error> {
    template(source).render(messages, true, &Map::new())
}

fn turns() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", "Hi <there> & you"),
    ]
}

#[test]
fn block_tags_leave_no_lines() {
    let source = "{% for m in messages %}\n    {% if m.role == 'user' %}\n[{{ m['content'] }}]\n    {% endif %}\n{% endfor %}\n{%- if add_generation_prompt %}\n>{{ eos_token }}{% endif %}";
    assert_eq!(
        render(source, &turns()).unwrap(),
        "[Hi <there> & you]\n></s>"
    );
}

#[test]
fn speaks_the_python_dialect() {
    let cases = [
        ("{{ ' x '.strip() }}|{{ 'a,b'.split(',')[-1] }}", "x|b"),
        ("{{ messages[0].content.startswith('Be') }}", "True"),
        (
            "{% for m in messages[::-1] %}{{ m.role }} {% endfor %}",
            "user system ",
        ),
        (
            "{{ messages[1:] | length }}{{ messages[-1].role }}",
            "1user",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + loop.index0 %}{% endfor %}{{ ns.n }}",
            "1",
        ),
        ("{% for m in messages %}{% break %}{% endfor %}done", "done"),
        ("{{ 'none' if tools is not defined else 'some' }}", "none"),
        (
            "{{ messages[0].tool_calls }}{{ messages[0].content is string }}",
            "True",
        ),
        (
            "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('ab') }}",
            "abab",
        ),
        (
            "{{ messages | map(attribute='role') | join(',') }}",
            "system,user",
        ),
        (
            "{% if messages[0]['role'] == 'system' and not tools %}{{ 1 }}{% endif %}",
            "1",
        ),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source, &turns()).unwrap(), expected, "{source}");
    }
}

#[test]
fn tojson_writes_what_python_writes() {
    let tools =
        variables(json!({"tools": [{"b": 1, "a": [true, null, "é<'\"\n"], "z": {}, "y": 1.5}]}));
    let rendered = |source: &str| template(source).render(&turns(), false, &tools).unwrap();
    assert_eq!(
        rendered("{{ tools[0] | tojson }}"),
        r#"{"b": 1, "a": [true, null, "é<'\"\n"], "z": {}, "y": 1.5}"#
    );
    assert_eq!(
        rendered("{{ tools[0].a | tojson(indent=2) }}"),
        "[\n  true,\n  null,\n  \"é<'\\\"\\n\"\n]"
    );
    assert_eq!(
        rendered("{{ [] | tojson(indent=4) }}{{ tools[0].z | tojson }}"),
        "[]{}"
    );
    let error = render("{{ 1 | tojson(sort_keys=true) }}", &turns()).unwrap_err();
    assert!(error.to_string().contains("sort_keys"), "{error}");
}

#[test]
fn the_templates_own_words_become_the_error() {
    let error = render("{{ raise_exception('roles must alternate') }}", &turns()).unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("chat template: "), "{message}");
    assert!(message.contains("roles must alternate"), "{message}");
}

#[test]
fn knows_the_date() {
    let year = render("{{ strftime_now('%Y') }}", &turns()).unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2024, "{year}");
}

fn open(files: &[(&str, &str)]) -> Result<ChatTemplate, Error> {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    ChatTemplate::open(dir.path())
}

fn prompt(template: &ChatTemplate, variables: Json) -> String {
    let variables = self::variables(variables);
    template.render(&turns(), false, &variables).unwrap()
}

#[test]
fn reads_every_place_a_template_can_be_in() {
    let one = r#"{"chat_template": "one {{ bos_token }}{{ eos_token }}", "bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>", "pad_token": null}"#;
    let template = open(&[("tokenizer_config.json", one)]).unwrap();
    assert_eq!(prompt(&template, json!({})), "one <s></s>");

    let file = ("chat_template.jinja", "file {{ bos_token }}");
    let template = open(&[("tokenizer_config.json", one), file]).unwrap();
    assert_eq!(prompt(&template, json!({})), "file <s>");
    assert_eq!(prompt(&open(&[file]).unwrap(), json!({})), "file ");

    let named = r#"{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools | length }}"}]}"#;
    let template = open(&[("tokenizer_config.json", named)]).unwrap();
    assert_eq!(prompt(&template, json!({})), "plain");
    assert_eq!(prompt(&template, json!({"tools": [1, 2]})), "tools 2");
}

#[test]
fn names_the_file_that_is_missing_or_damaged() {
    let message = |files: &[(&str, &str)]| open(files).unwrap_err().to_string();
    let none = message(&[("tokenizer_config.json", "{}")]);
    assert!(none.contains("chat_template.jinja: no such file"), "{none}");
    for (name, content) in [
        ("tokenizer_config.json", "{\"chat_template\": 3}"),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "{\"chat_template\": \"{% if %}\"}"),
        ("chat_template.jinja", "{{ unclosed"),
    ] {
        let damaged = message(&[(name, content)]);
        assert!(damaged.contains(name), "{damaged}");
        assert!(!damaged.contains('\n'), "{damaged}");
    }
    let undefined = open(&[("chat_template.jinja", "{{ a.b.c }}")]).unwrap();
    let failed = undefined.render(&turns(), true, &Map::new()).unwrap_err();
    assert!(failed.to_string().contains("undefined"), "{failed}");
}
