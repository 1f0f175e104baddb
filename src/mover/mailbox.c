/* SPDX-License-Identifier: Apache-2.0 */
#include "mover/mailbox.h"

#include <errno.h>
#include <sys/eventfd.h>

int mailbox_init(struct mailbox *mailbox)
{
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

        if (fd < 0)
                return -errno;
        *mailbox = (struct mailbox){.event_fd = fd};
        pthread_mutex_init(&mailbox->lock, NULL);
        return 0;
}

void mailbox_deinit(struct mailbox *mailbox)
{
        if (mailbox->event_fd <= 0)
                return;
        error_free(TAKE_PTR(mailbox->error));
        pthread_mutex_destroy(&mailbox->lock);
        fd_closep(&mailbox->event_fd);
}

static void post_locked(struct mailbox *mailbox, enum mail mail)
{
        if (!(mailbox->posted & mail)) {
                mailbox->posted |= mail;
                mailbox->pending |= mail;
        }
}

void mailbox_post(struct mailbox *mailbox, enum mail mail)
{
        pthread_mutex_lock(&mailbox->lock);
        post_locked(mailbox, mail);
        pthread_mutex_unlock(&mailbox->lock);
        (void)eventfd_write(mailbox->event_fd, 1);
}

void mailbox_fail(struct mailbox *mailbox, struct error *error, bool from_peer)
{
        _cleanup_error_ struct error *unused = error;

        pthread_mutex_lock(&mailbox->lock);
        if (!(mailbox->posted & MAIL_FAILED)) {
                mailbox->error = TAKE_PTR(unused);
                mailbox->from_peer = from_peer;
        }
        post_locked(mailbox, MAIL_FAILED);
        pthread_mutex_unlock(&mailbox->lock);
        (void)eventfd_write(mailbox->event_fd, 1);
}

void mailbox_post_result(struct mailbox *mailbox, const struct mail_result *result)
{
        pthread_mutex_lock(&mailbox->lock);
        if (!(mailbox->posted & MAIL_RESULT))
                mailbox->result = *result;
        pthread_mutex_unlock(&mailbox->lock);
        mailbox_post(mailbox, MAIL_RESULT);
}

unsigned int mailbox_take(struct mailbox *mailbox)
{
        unsigned int pending;
        eventfd_t ignored;

        (void)eventfd_read(mailbox->event_fd, &ignored);
        pthread_mutex_lock(&mailbox->lock);
        pending = mailbox->pending;
        mailbox->pending = 0;
        pthread_mutex_unlock(&mailbox->lock);
        return pending;
}

bool mailbox_has(struct mailbox *mailbox, enum mail mail)
{
        bool has;

        pthread_mutex_lock(&mailbox->lock);
        has = mailbox->posted & mail;
        pthread_mutex_unlock(&mailbox->lock);
        return has;
}
