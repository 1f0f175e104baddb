/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Beside manager_rig.h: maintenance of host1, on which "web" runs. */

#include "manager_rig.h"

#define SUSPEND "\"policy\": [{\"step\": \"suspend\", \"limit_ms\": 1000}]"
#define SUSPEND_AND_WAIT "\"policy\": [{\"step\": \"suspend\", \"limit_ms\": 600000}]"

/* The status of the answer. */
int ask_maintenance(struct state *state, const char *body);
/* ret_path: of its task. */
void begin_maintenance(struct state *state, const char *body, char ret_path[static 128]);
/* how: the state in which the task is to end. */
void end_task(struct state *state, const char *path, const char *how);
void do_maintenance(struct state *state, const char *body, const char *how);
void cancel(struct state *state, const char *path);
/* Of the report that is the last answer (or its result). */
const json_t *first_line(struct state *state);
const json_t *line_of(struct state *state, const char *vm);
void assert_line(struct state *state, const char *outcome, const char *to);
const char *action_of_try(struct state *state, size_t i);
const json_t *status_of(struct state *state, const char *path);
void assert_web(struct state *state, const char *power, const char *host);
const json_t *maintenance(struct state *state);
/* Of those that left host1, and are to be resumed or brought back when or since its maintenance ended. */
size_t n_left(struct state *state);
size_t n_tasks(struct state *state, const char *action);
void room_at(struct state *state, size_t agent, json_int_t bytes);
/* "web" runs on host1, and no other host takes it. */
void set_a_full_stage(struct state *state);
/* One more, on host1. */
void add_vm(struct state *state, const char *name);
/* "web" is suspended, and host1 is in maintenance. */
void suspend_for_maintenance(struct state *state);
bool web_is_suspended(struct state *state);
bool state_is_held(struct state *state);
/* What is asked of "web" ends so. */
void ask_of_web(struct state *state, const char *verb, json_t *body, const char *how);
/* The stored document, without its revision; the caller's. */
json_t *stored_task(struct state *state, const char *path, uint64_t *ret_revision);
/* Its data, borrowed from that. */
json_t *data_of(const json_t *task);
/* Stops the manager, and starts one that finds the document (taken over) changed. */
void restart_with(struct state *state, uint64_t revision, json_t *doc);
