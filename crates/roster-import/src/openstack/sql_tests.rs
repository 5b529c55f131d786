use super::*;
use proptest::prelude::*;
use rstest::rstest;

#[test]
fn columns_come_from_the_table_or_from_the_statement() {
    let dump = b"-- a comment\n/*!40101 SET x=1 */;\nCREATE TABLE `user` (\n  `id` varchar(64) NOT NULL DEFAULT 'a,b)',\n  `n` decimal(3,2),\n  PRIMARY KEY (`id`)\n) ENGINE=InnoDB;\n\
        INSERT INTO `user` VALUES ('it''s \\'x\\'\\n;',1),(_utf8mb4 'b',NULL);\nINSERT INTO `group` (`id`, `name`) VALUES\n('1', 'a');\n";
    let mut input = Input::default();
    let tables = read(dump, &mut input);
    assert_eq!(input.rejected, []);
    assert_eq!((tables["user"][0].text("id").as_str(), tables["user"][0].text("n").as_str()), ("it's 'x'\n;", "1"));
    assert_eq!((tables["user"][1].text("id").as_str(), tables["user"][1].text("n").as_str()), ("b", ""));
    assert_eq!((tables["group"][0].text("name").as_str(), tables["group"][0].place.line), ("a", 10));
}

#[test]
fn rows_with_a_wrong_number_of_values_are_rejected() {
    let mut input = Input::default();
    read(b"INSERT INTO `user` VALUES (1);\nINSERT INTO user (id) VALUES (1);", &mut input);
    assert_eq!(input.rejected[0].place.line, 1);
    assert_eq!(input.rejected.len(), 1);
}

/// Returns columns of the first user and of the first group.
fn user_and_group(dump: &str) -> [String; 4] {
    let mut input = Input::default();
    let tables = read(dump.as_bytes(), &mut input);
    assert_eq!(input.rejected, [], "{dump}");
    let of = |table: &str, column: &str| tables[table][0].text(column);
    [of("user", "id"), of("user", "extra"), of("user", "enabled"), of("group", "name")]
}

const REPLACE: &str = r#"
REPLACE INTO `user` (`id`,`extra`,`enabled`) VALUES ('1','{\"a\": \"it''s\"}',1);
REPLACE LOW_PRIORITY INTO `keystone`.`group` (`name`) VALUES ('staff');
"#;

const SQLITE: &str = r#"
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE user (
	id VARCHAR(64) NOT NULL,
	extra TEXT, enabled BOOLEAN,
	PRIMARY KEY (id), CHECK (enabled IN (0, 1))
);
INSERT INTO user VALUES('1','{"a": "it''s"}',1);
CREATE TABLE IF NOT EXISTS "group" (name VARCHAR(64));
INSERT INTO "group" VALUES('staff');
COMMIT;
"#;

const PG_DUMP_INSERTS: &str = r#"
SET standard_conforming_strings = on;
CREATE TABLE public."user" (
    id character varying(64) NOT NULL,
    extra text,
    enabled boolean
);
INSERT INTO public."user" VALUES ('1', '{"a": "it''s"}', true);
INSERT INTO public."user" VALUES ('2', 'a backslash at the end \', true);
INSERT INTO public."group" (name) VALUES (E'sta\ff');
"#;

#[rstest]
#[case(REPLACE, "1", "staff")]
#[case(SQLITE, "1", "staff")]
#[case(PG_DUMP_INSERTS, "true", "staff")]
fn case_a9_dumps_of_other_programs_are_read(#[case] dump: &str, #[case] enabled: &str, #[case] group: &str) {
    assert_eq!(user_and_group(dump), ["1", r#"{"a": "it's"}"#, enabled, group]);
}

const PG_DUMP: &str = r#"--
-- PostgreSQL database dump
--

\restrict x7

SET standard_conforming_strings = on;

COPY public."group" (id, name) FROM stdin;
g TAB staff
\.


COPY public."user" (id, extra, enabled) FROM stdin;
1 TAB {"a": "it's; \\\\"} TAB t
2 TAB \N TAB f
\.

INSERT INTO public.local_user (id) VALUES (7);
\unrestrict x7
"#;

#[test]
fn case_a9_rows_of_copy_are_read() {
    let dump = PG_DUMP.replace(" TAB ", "\t");
    assert_eq!(user_and_group(&dump), ["1", r#"{"a": "it's; \\"}"#, "t", "staff"]);
    let mut input = Input::default();
    let tables = read(dump.replace("2\t\\N", "2").as_bytes(), &mut input);
    assert_eq!(tables["local_user"][0].text("id"), "7", "statements after COPY are read");
    assert_eq!((input.rejected[0].place.line, tables["user"].len()), (16, 1));
}

proptest! {
    #[test]
    fn arbitrary_statements_do_not_panic(
        text in "(INSERT INTO |REPLACE |COPY |FROM stdin;|\\\\\\.|\t|PRAGMA |CREATE TABLE |`a`|\\(|\\)|'|\\\\|,|;|VALUES|x| |\n|/\\*){0,40}"
    ) {
        read(text.as_bytes(), &mut Input::default());
    }
}
