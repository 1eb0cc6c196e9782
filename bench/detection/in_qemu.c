/* in_qemu.c: what the kernel under qemu runs (native/tests/noautofill/init.c): one row, with its bug and without. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void run(const char *how)
{
    printf("@@ %s\n", how);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("BUFPOOL_OPTIONS", OPTIONS, 1);
        dup2(STDOUT_FILENO, STDERR_FILENO);
        execl("/bin/detection", "detection", ROW, how, (char *)NULL);
        _exit(127);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    printf("@@ code %d\n", WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status));
    fflush(stdout);
}

int main(void)
{
    run("bug");
    run("correct");
    return 0;
}
